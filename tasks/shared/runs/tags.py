"""Tags on checkpoints (`promoted`), the nights of each, and pins, in the store beside the records of runs.

`tags/<tag>.json` holds every position a tag has had, the present one last; `nights/<subject>.json` one evaluation a
night; `pins/<name>.json` one artifact that is kept whatever refers to it. What is `latest` of a run is read off the
run's record and needs no tag.
"""

from datetime import UTC, datetime
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.documents import Documents

PROMOTED = "promoted"
LATEST = "latest."  # what comes before a run's name where its latest checkpoint is meant


class Tagged(BaseModel):
    """One position of a tag."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str  # whose recipe says how the checkpoint is evaluated
    checkpoint: ArtifactRef
    evaluation_sets: ArtifactRef
    evaluation: ArtifactRef  # at the time of promotion: the reference of the nights to come
    reason: str  # what the gate said
    moved: str = ""  # ISO 8601, UTC


class Night(BaseModel):
    """One night of one tagged checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    day: str  # ISO date
    checkpoint: ArtifactRef
    evaluation: ArtifactRef


class Pin(BaseModel):
    """An artifact that somebody wants to keep."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: ArtifactRef
    pinned: str  # ISO 8601, UTC


class _Rows(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Positions(_Rows):
    rows: tuple[Tagged, ...] = ()


class _Nights(_Rows):
    rows: tuple[Night, ...] = ()


Document = TypeVar("Document", bound=BaseModel)


class Tags:
    """The tags of a store."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._documents = Documents(store, "tags")

    def names(self) -> list[str]:
        """Every tag that has been set."""
        return sorted(self._documents.names())

    def current(self, tag: str) -> Tagged | None:
        """What carries the tag now, None if nothing ever has. ValueError if the tag's document is damaged."""
        return next(reversed(self.history(tag)), None)

    def history(self, tag: str) -> tuple[Tagged, ...]:
        """Every position of the tag, oldest first."""
        content = self._documents.read(tag)
        return _parse(_Positions, content, self._documents.describe(tag)).rows

    def move(self, tag: str, position: Tagged) -> None:
        """Give the tag to another checkpoint. ValueError for a name that means the latest of a run."""
        if tag.startswith(LATEST):
            raise ValueError(f"tag '{tag}': '{LATEST}...' is kept for runs; choose another name")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        stamped, where = position.model_copy(update={"moved": now}), self._documents.describe(tag)

        def add(content: bytes | None) -> str:
            rows = _parse(_Positions, content, where).rows
            return _Positions(rows=(*rows, stamped)).model_dump_json(indent=1)

        self._documents.change(tag, add)


class Nights:
    """The nights of a store, by subject: a tag, or `latest.<run>`."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._documents = Documents(store, "nights")

    def names(self) -> list[str]:
        """Every subject that has a night."""
        return sorted(self._documents.names())

    def of(self, subject: str) -> tuple[Night, ...]:
        """Every night of the subject in the order of days. ValueError if the document is damaged."""
        return _parse(_Nights, self._documents.read(subject), self._documents.describe(subject)).rows

    def add(self, subject: str, night: Night) -> None:
        """Note a night; one of the same day is replaced."""
        where = self._documents.describe(subject)

        def add(content: bytes | None) -> str:
            others = [row for row in _parse(_Nights, content, where).rows if row.day != night.day]
            rows = sorted([*others, night], key=lambda row: row.day)
            return _Nights(rows=tuple(rows)).model_dump_json(indent=1)

        self._documents.change(subject, add)


class Pins:
    """The pins of a store."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._documents = Documents(store, "pins")

    def all(self) -> dict[str, Pin]:
        """Every pin by its name. ValueError if one is damaged."""
        found = {name: self._documents.read(name) for name in sorted(self._documents.names())}
        return {name: _parse(Pin, content, self._documents.describe(name)) for name, content in found.items()}

    def set(self, name: str, artifact: ArtifactRef) -> None:
        """Keep an artifact under this name, in place of what was kept under it."""
        pin = Pin(artifact=artifact, pinned=datetime.now(UTC).isoformat(timespec="seconds"))
        self._documents.change(name, lambda _: pin.model_dump_json(indent=1))

    def remove(self, name: str) -> None:
        """Take a pin away; ValueError that lists those there are if there is none of this name."""
        pins = self.all()
        if name not in pins:
            raise ValueError(f"pin '{name}': there is none; pins: {', '.join(pins) or 'none'}")
        self._documents.remove(name)


def _parse(kind: type[Document], content: bytes | None, where: str) -> Document:
    if content is None:
        return kind()
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(f"{where}: damaged ({error.errors()[0]['msg']}); repair or delete it") from None
