"""Read a recipe's problem sets: hub datasets at a pinned revision, local JSONL or parquet files, the tiny world.

Everything ends in `rows.check_rows`, so that one set of errors covers all of them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data.problems import Split, generate
from data.registry import find_problem_set
from tasks.prepare.rows import Columns, ProblemRow, check_rows
from tasks.shared.config import ProblemSource

COMMIT = re.compile(r"[0-9a-f]{40}")
TINY_DEFAULT_LIMIT = 200


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """A problem set, read and checked."""

    # its name in the recipe
    name: str
    # "integer" or "expression"
    answer_kind: str
    rows: list[ProblemRow]
    # rows dropped because the same problem stood there before
    num_repeats: int


RawRows = Iterator[tuple[str, Mapping[str, Any]]]


def read_problem_set(source: ProblemSource, seed: int) -> ProblemSet:
    """Read one problem set of the recipe.

    Args:
        source: where it is.
        seed: for problems made here; others do not depend on it.

    Raises:
        ValueError: missing file, unreachable or unpinned hub dataset, or a bad row; the message says what to do.
    """
    columns = Columns(source.problem_column, source.answer_column, source.answer == "integer")
    if source.source == "tiny":
        raw_rows = _tiny_rows(source, seed)
    elif source.source == "file":
        raw_rows = _file_rows(source)
    elif source.source == "hub":
        raw_rows = _hub_rows(source.name, source.id, source.revision, source.subset, source.split)
    else:
        entry = find_problem_set(source.id)
        columns = Columns(
            entry.problem_column,
            entry.answer_column,
            entry.answer == "integer",
            entry.strip_before,
            entry.strip_after,
        )
        raw_rows = _hub_rows(source.name, entry.id, entry.revision, "", entry.split)
    rows, num_repeats = check_rows(raw_rows, columns, source.name)
    if source.limit is not None:
        rows = rows[: source.limit]
    return ProblemSet(source.name, "integer" if columns.integer else "expression", rows, num_repeats)


def _tiny_rows(source: ProblemSource, seed: int) -> RawRows:
    limit = TINY_DEFAULT_LIMIT if source.limit is None else source.limit
    for index, problem in enumerate(generate(Split(source.split), limit, seed)):
        row = {"id": problem.id, "family": problem.family}
        row |= {source.problem_column: problem.problem, source.answer_column: str(problem.answer)}
        yield f"tiny world: row {index + 1}", row


def _file_rows(source: ProblemSource) -> RawRows:
    path = Path(source.path)
    if not path.is_file():
        raise ValueError(f"problem set '{source.name}': no file {path}; correct its path in the recipe")
    if path.suffix == ".jsonl":
        yield from _jsonl_rows(path)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        raise ValueError(
            f"problem set '{source.name}': {path} is neither .jsonl nor .parquet; convert it to one"
        )


def _jsonl_rows(path: Path) -> RawRows:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            place = f"{path}: row {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{place}: not valid JSON ({error.msg}); correct that line") from None
            if not isinstance(row, dict):
                raise ValueError(
                    f"{place}: not a JSON object; write one object with problem and answer a line"
                )
            yield place, row


def _parquet_rows(path: Path) -> RawRows:
    import pyarrow
    import pyarrow.parquet

    try:
        parquet = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a parquet file ({error}); write it again") from None
    number = 0
    for batch in parquet.iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"{path}: row {number}", row


def _hub_rows(name: str, hub_id: str, revision: str, subset: str, split: str) -> RawRows:
    """Rows of a hub dataset through `datasets`; its cache serves a second read without a network."""
    if not COMMIT.fullmatch(revision):
        raise ValueError(
            f"problem set '{name}': revision '{revision}' is not a commit hash of 40 hex digits; "
            "branches and tags move, pin the commit that the dataset's history page shows"
        )
    import datasets

    try:
        dataset = datasets.load_dataset(hub_id, subset or None, revision=revision, split=split)
    except (OSError, ValueError) as error:
        # the hub's client reports no network, a missing dataset and a missing split by OSErrors and ValueErrors
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"problem set '{name}': cannot load {hub_id} at {revision[:12]}, split '{split}' ({first_line}); "
            "check the network, id and split, or use source = 'file'"
        ) from error
    for number, row in enumerate(islice(dataset, len(dataset)), start=1):
        yield f"{hub_id}@{revision[:12]}: row {number}", row
