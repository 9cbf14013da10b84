"""Tags on checkpoints (`promoted`) and the nights of each tagged checkpoint, in the store beside the records of runs.

`tags/<tag>.json` holds every position a tag has had, the present one last; `nights/<subject>.json` one evaluation a
night. What is `latest` of a run is read off the run's record and needs no tag.
"""

from datetime import UTC, datetime
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.documents import Documents

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


class _Rows(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Positions(_Rows):
    rows: tuple[Tagged, ...] = ()


class _Nights(_Rows):
    rows: tuple[Night, ...] = ()


Document = TypeVar("Document", bound=_Rows)


class Tags:
    """The tags of a store."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._documents = Documents(store, "tags")

    def names(self) -> list[str]:
        """Every tag that has been set."""
        return self._documents.names()

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


def _parse(kind: type[Document], content: bytes | None, where: str) -> Document:
    if content is None:
        return kind()
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(f"{where}: damaged ({error.errors()[0]['msg']}); repair or delete it") from None
