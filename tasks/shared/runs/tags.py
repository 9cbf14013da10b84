"""Tags on checkpoints (`promoted`), the nights of each, and pins, in the store beside the records of runs.

`tags/<tag>.json` holds every position of a tag, the current one last; `nights/<subject>.json` one evaluation a night;
`pins/<name>.json` one artifact that is kept whatever refers to it. The `latest` of a run follows from the run's record
and needs no tag.
"""

from datetime import UTC, datetime
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.documents import Documents

PROMOTED = "promoted"
LATEST = "latest."  # precedes a run's name where its latest checkpoint is meant


class Document(BaseModel):
    """What a store remembers under one name, or a part of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Tagged(Document):
    """One position of a tag."""

    run: str  # whose recipe says how the checkpoint is evaluated
    checkpoint: ArtifactRef
    evaluation_sets: ArtifactRef
    evaluation: ArtifactRef  # at the time of promotion: the reference of the nights to come
    reason: str  # of the promotion gate
    moved: str = ""  # ISO 8601, UTC


class Night(Document):
    """One night of one tagged checkpoint."""

    day: str  # ISO date
    checkpoint: ArtifactRef
    evaluation: ArtifactRef


class Pin(Document):
    """An artifact that somebody keeps."""

    artifact: ArtifactRef
    pinned: str  # ISO 8601, UTC


class _Positions(Document):
    rows: tuple[Tagged, ...] = ()


class _Nights(Document):
    rows: tuple[Night, ...] = ()


Kind = TypeVar("Kind", bound=Document)


class Tags:
    """The tags of a store."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._documents = Documents(store, "tags")

    def names(self) -> list[str]:
        """List every tag that has been set."""
        return sorted(self._documents.names())

    def current(self, tag: str) -> Tagged | None:
        """Return the tag's position, or None if it was never set. Raises ValueError if its document is damaged."""
        return next(reversed(self.history(tag)), None)

    def history(self, tag: str) -> tuple[Tagged, ...]:
        """List every position of the tag, oldest first."""
        return _read(self._documents, tag, _Positions).rows

    def move(self, tag: str, position: Tagged) -> None:
        """Give the tag to another checkpoint. Raises ValueError for a name that means the latest of a run."""
        if tag.startswith(LATEST):
            raise ValueError(f"tag '{tag}': '{LATEST}...' is kept for runs; choose another name")
        stamped = position.model_copy(update={"moved": _now()})

        def add(_: bytes | None) -> str:
            return _Positions(rows=(*self.history(tag), stamped)).model_dump_json(indent=1)

        self._documents.change(tag, add)


class Nights:
    """The nights of a store, by subject: a tag, or `latest.<run>`."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._documents = Documents(store, "nights")

    def names(self) -> list[str]:
        """List every subject that has a night."""
        return sorted(self._documents.names())

    def of(self, subject: str) -> tuple[Night, ...]:
        """List the nights of a subject in the order of days. Raises ValueError if the document is damaged."""
        return _read(self._documents, subject, _Nights).rows

    def add(self, subject: str, night: Night) -> None:
        """Record a night. One of the same day is replaced."""

        def add(_: bytes | None) -> str:
            nights = {row.day: row for row in (*self.of(subject), night)}
            return _Nights(rows=tuple(nights[day] for day in sorted(nights))).model_dump_json(indent=1)

        self._documents.change(subject, add)


class Pins:
    """The pins of a store."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._documents = Documents(store, "pins")

    def all(self) -> dict[str, Pin]:
        """Return every pin by its name. Raises ValueError if one is damaged."""
        return {name: _read(self._documents, name, Pin) for name in sorted(self._documents.names())}

    def set(self, name: str, artifact: ArtifactRef) -> None:
        """Keep an artifact under this name, in place of the previous one."""
        pin = Pin(artifact=artifact, pinned=_now())
        self._documents.change(name, lambda _: pin.model_dump_json(indent=1))

    def remove(self, name: str) -> None:
        """Remove a pin. Raises ValueError, which lists the pins, if there is none of this name."""
        pins = self.all()
        if name not in pins:
            raise ValueError(f"pin '{name}': there is none; pins: {', '.join(pins) or 'none'}")
        self._documents.remove(name)


def _read(documents: Documents, name: str, kind: type[Kind]) -> Kind:
    """Return the document of this name, empty if there is none. Raises ValueError if it is damaged."""
    content = documents.read(name)
    try:
        return kind() if content is None else kind.model_validate_json(content)
    except ValidationError as error:
        where = documents.describe(name)
        raise ValueError(f"{where}: damaged ({error.errors()[0]['msg']}); repair or delete it") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
