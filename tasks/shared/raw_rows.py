"""Raw rows of a dataset, each with its place for error messages: hub datasets at a pinned revision, JSONL, parquet.

A mistake is one line of ValueError that names what is read (`what`: "problem set 'mine'"), the row and the remedy.
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

MAX_CHARS = 1_000_000  # of one text; more is a file that lost its line ends, and no model could read it
COMMIT = re.compile(r"[0-9a-f]{40}")
RawRows = Iterator[tuple[str, Mapping[str, Any]]]


def file_rows(what: str, path: Path) -> RawRows:
    """Rows of a .jsonl or .parquet file."""
    if not path.is_file():
        raise ValueError(f"{what}: no file {path}; correct its path in the recipe")
    if path.suffix == ".jsonl":
        yield from _jsonl_rows(path)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        raise ValueError(f"{what}: {path} is neither .jsonl nor .parquet; convert it to one")


def hub_rows(what: str, hub_id: str, revision: str, subset: str, split: str) -> RawRows:
    """Rows of a hub dataset through `datasets`; its cache serves a second read without a network."""
    if not COMMIT.fullmatch(revision):
        raise ValueError(
            f"{what}: revision '{revision}' is not a commit hash of 40 hex digits; "
            "branches and tags move, pin the commit that the dataset's history page shows"
        )
    import datasets

    try:
        dataset = datasets.load_dataset(hub_id, subset or None, revision=revision, split=split)
    except (OSError, ValueError) as error:
        # the hub's client reports no network, a missing dataset and a missing split by OSErrors and ValueErrors
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{what}: cannot load {hub_id} at {revision[:12]}, split '{split}' ({first_line}); "
            "check the network, id and split, or use source = 'file'"
        ) from error
    for number, row in enumerate(islice(dataset, len(dataset)), start=1):
        yield f"{hub_id}@{revision[:12]}: row {number}", row


def text_at(raw: Mapping[str, Any], column: str, place: str, setting: str) -> str:
    """The text in a column, stripped; a dot steps into nested values. `setting` is the recipe's key for the column."""
    value: Any = raw
    for part in column.split("."):
        try:
            value = value[int(part) if isinstance(value, list) else part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ValueError(
                f"{place}: key '{column}' is missing (the row has {', '.join(sorted(raw)) or 'no keys'}); "
                f"add it or set {setting}"
            ) from None
    text = "" if value is None else _number_text(value)
    if not text.strip():
        raise ValueError(f"{place}: key '{column}' is empty; fill it in or take the row out")
    if len(text) > MAX_CHARS:
        raise ValueError(
            f"{place}: key '{column}' has {len(text)} characters, over {MAX_CHARS}; take the row out or set {setting}"
        )
    return text.strip()


def _number_text(value: object) -> str:
    # parquet written by pandas turns a column of integers with a gap into floats
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


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
                raise ValueError(f"{place}: not a JSON object; write one object a line")
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
