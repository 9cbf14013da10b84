"""The bases of the configuration tree: its sections, and what a stage takes of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: immutable, unknown keys are errors."""

    # an infinite number would be null in a stage's request, which is JSON
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StageConfig(Section):
    """The sections that a stage depends on, and no others: a change of any of them runs it again."""

    @classmethod
    def of(cls, recipe: Any) -> Self:
        """What the stage takes of a whole recipe; a stage that takes less than its sections says so here."""
        return cls(**{name: getattr(recipe, name) for name in cls.model_fields})

    def each(self, setting: str) -> Iterator[tuple[str, Any]]:
        """Each section that has this setting, by name, and what it says there."""
        yield from ((name, getattr(part, setting)) for name, part in self if hasattr(part, setting))


def require_absolute(key: str, path: str) -> None:
    """ValueError for a relative path: stages run in directories of their own."""
    if path and "://" not in path and not Path(path).is_absolute():
        raise ValueError(f"{key} = '{path}' is relative; give an absolute path")
