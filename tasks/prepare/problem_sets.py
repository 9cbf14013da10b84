"""Reads a recipe's problem sets: hub datasets at a pinned revision, local files, the tiny world.

All of them go through `rows.check_rows`, so that their errors are the same.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.problems import Split, generate
from data.registry import PublicProblemSet, find_problem_set
from tasks.prepare.config import ProblemSource
from tasks.prepare.rows import Columns, ProblemRow, check_rows
from tasks.shared.rows.raw import RawRows, file_rows, hub_rows

MADE_DEFAULT_LIMIT = 200


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """A problem set, read and checked."""

    name: str  # its name in the recipe
    answer_kind: str  # "integer" or "expression"
    rows: list[ProblemRow]
    num_repeats: int  # rows dropped because an earlier row has the same problem


def read_problem_set(source: ProblemSource, seed: int) -> ProblemSet:
    """Read one problem set of the recipe; `seed` is that of problems made here.

    Raises ValueError: a missing file, an unreachable or unpinned hub dataset, or a bad row; the message has the remedy.
    """
    entry = find_problem_set(source.id) if source.source == "registry" else None
    where = entry or source
    columns = Columns(where.problem_column, where.answer_column, where.answer == "integer")
    what = f"problem set '{source.name}'"
    if entry is not None:
        columns = replace(columns, strip_before=entry.strip_before, strip_after=entry.strip_after)
        raw_rows = hub_rows(what, entry.id, entry.revision, entry.subset, entry.split)
    else:
        columns = replace(columns, several=source.several_answers)
        raw_rows = _source_rows(what, source, seed)
    rows, num_repeats = check_rows(raw_rows, columns, source.name)
    if entry is not None:
        require_as_registered(what, entry, rows, num_repeats)
    rows = rows[: source.limit]
    return ProblemSet(source.name, "integer" if columns.integer else "expression", rows, num_repeats)


def _source_rows(what: str, source: ProblemSource, seed: int) -> RawRows:
    """The raw rows of a set that is not in the registry."""
    if source.source == "file":
        return file_rows(what, Path(source.path), source.split)
    if source.source == "hub":
        return hub_rows(what, source.id, source.revision, source.subset, source.split)
    return _made_rows(source, seed)


def require_as_registered(
    what: str, entry: PublicProblemSet, rows: Sequence[ProblemRow], num_repeats: int
) -> None:
    """ValueError if a public set has another number of rows, or other content, than the registry says."""
    found, digest = len(rows) + num_repeats, rows_digest(rows)
    difference = ""
    if entry.rows and found != entry.rows:
        difference = f"has {found} rows where data/registry.toml says {entry.rows}"
    elif entry.digest and digest != entry.digest:
        difference = f"has other problems or answers than data/registry.toml says (digest {digest})"
    if difference:
        raise ValueError(
            f"{what}: {entry.id} {difference}; clear the hub's cache, or correct the entry if its revision was changed"
        )


def rows_digest(rows: Sequence[ProblemRow]) -> str:
    """sha256, as hex, over problems and answers in order."""
    content = json.dumps([[row.problem, row.answer] for row in rows], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _made_rows(source: ProblemSource, seed: int) -> RawRows:
    limit = MADE_DEFAULT_LIMIT if source.limit is None else source.limit
    for index, problem in enumerate(generate(Split(source.split), limit, seed, world=source.source)):
        row = {"id": problem.id, "family": problem.family}
        row |= {source.problem_column: problem.problem, source.answer_column: str(problem.answer)}
        yield f"{source.source} world: row {index + 1}", row
