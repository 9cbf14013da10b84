"""The registry of public problem sets: `data/registry.toml`, read into records.

`python -m data.registry` lists name, hub id, revision and licence.
"""

import sys
from dataclasses import dataclass
from typing import Literal

from data.tables import find_entry, read_tables


@dataclass(frozen=True, slots=True)
class PublicProblemSet:
    """One public problem set at a pinned revision."""

    id: str  # hub dataset id
    revision: str  # commit hash on the hub, 40 hex digits
    split: str
    licence: str  # as the dataset's card states it
    problem_column: str  # column names, dotted where the value is nested
    answer_column: str
    answer: Literal["integer", "expression"]  # what an answer must look like
    subset: str = ""  # configuration of the dataset; empty: its only one
    rows: int = 0  # as published, repeats included; 0: not checked
    # `rows_digest` of problems and answers; empty: not checked, `prepare` logs what it finds
    digest: str = ""
    strip_before: str = ""  # everything up to and with this text is cut off a problem; empty: nothing
    strip_after: str = ""  # everything from this text on is cut off a problem; empty: nothing


def load_registry() -> dict[str, PublicProblemSet]:
    """All entries by name."""
    return {name: PublicProblemSet(**entry) for name, entry in read_tables("registry.toml").items()}


def find_problem_set(name: str) -> PublicProblemSet:
    """The entry of that name. Raises ValueError, which lists the known ones, if there is none."""
    return find_entry(load_registry(), name, "registry.toml: no problem set", "use one of {}")


if __name__ == "__main__":
    for entry_name, entry in load_registry().items():
        sys.stdout.write(f"{entry_name:16} {entry.id}@{entry.revision[:12]}  {entry.licence}\n")
