"""Raw rows of a dataset, each with its place for error messages: hub datasets at a pinned revision, files, folders.

An error is a ValueError of one line that names the dataset (`what`: "problem set 'mine'"), file, row and remedy. Bytes
that are not UTF-8 are kept as surrogates, which `values.py` refuses where it reads them.
"""

import csv
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tasks.shared.rows.values import encoding_hint

if TYPE_CHECKING:
    from pyarrow import RecordBatch

COMMIT = re.compile(r"[0-9a-f]{40}")
RawRows = Iterator[tuple[str, Mapping[str, Any]]]
PACKED = (".gz", ".bz2", ".xz")
UNREADABLE = (OSError, lzma.LZMAError, zlib.error, EOFError)
BYTE_ORDER_MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
BLANK = "\ufeff \t\r\n"  # around a line; a file joined from several holds marks within it
# `train-00000-of-00002.parquet`, `data/test.jsonl`, `validation/0.csv`
SPLIT = re.compile(r"(?:^|[-_./ ])(train|test|validation|valid|val|dev|eval)(?:[-_./ ]|$)", re.IGNORECASE)
SPLIT_NAMES = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "test"}
HIDDEN = re.compile(r"(?:^|/)[._]")  # a file or folder whose name begins so
SAVED = ("dataset_dict.json", "state.json")  # by `save_to_disk`
MAX_FIELD = 1 << 30  # of a CSV file; `values.py` limits the length of a value
MAX_REASON_CHARS = 300  # of a library's message


def file_rows(what: str, path: Path, split: str = "train") -> RawRows:
    """Rows of a file, or of a folder's shards; of a folder with several splits those of `split`."""
    if any((path / name).is_file() for name in SAVED):
        yield from _saved_rows(what, path, split)
    elif path.is_dir():
        for shard in _shards(what, path, split):
            yield from _reader(what, shard)(shard)
    elif path.is_file():
        yield from _reader(what, path)(path)
    else:
        raise ValueError(f"{what}: no file {path}; correct its path in the recipe")


def hub_rows(what: str, hub_id: str, revision: str, subset: str, split: str) -> RawRows:
    """Rows of a hub dataset through `datasets`; its cache serves a second read without a network.

    Files whose columns or types differ make no table: they are read row by row, so that an error names the row.
    """
    if not COMMIT.fullmatch(revision):
        raise ValueError(
            f"{what}: revision '{revision}' is not a commit hash of 40 hex digits; "
            "branches and tags move, pin the commit that the dataset's history page shows"
        )
    import datasets
    import huggingface_hub

    try:
        dataset = datasets.load_dataset(hub_id, subset or None, revision=revision, split=split)
    except datasets.exceptions.DatasetGenerationError as error:
        if subset:
            raise ValueError(
                f"{what}: cannot read {hub_id}, subset '{subset}' ({_in_one_line(error)})"
            ) from error
        patterns = [f"*{kind}{packed}" for kind in READERS for packed in ("", *PACKED)]
        folder = huggingface_hub.snapshot_download(
            hub_id, repo_type="dataset", revision=revision, allow_patterns=patterns
        )
        yield from file_rows(what, Path(folder), split)
        return
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        # no network, a missing dataset, subset or split, or unreadable files
        raise ValueError(
            f"{what}: cannot load {hub_id} at {revision[:12]}, split '{split}' ({_in_one_line(error)}); "
            "check the network, id, subset and split, or use source = 'file'"
        ) from error
    for number, row in enumerate(islice(dataset, len(dataset)), start=1):
        yield f"{hub_id}@{revision[:12]}: row {number}", row


def _in_one_line(error: Exception) -> str:
    """A library's message of several lines in one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return reason if len(reason) <= MAX_REASON_CHARS else reason[: MAX_REASON_CHARS - 3] + "..."


def _kind(path: Path) -> str:
    """The ending that decides how a file is read: `.jsonl` of `a.JSONL.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in PACKED), "")


def _reader(what: str, path: Path) -> Callable[[Path], RawRows]:
    reader = READERS.get(_kind(path))
    if reader is None:
        raise ValueError(f"{what}: {path} is none of {', '.join(READERS)}; convert it to one")
    return reader


def _shards(what: str, folder: Path, split: str) -> list[Path]:
    """The data files of a folder in order, all of one kind; of several splits those of `split`."""
    files = {path: path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {path: name for path, name in files.items() if not HIDDEN.search(name.as_posix())}
    # a .json file beside other data describes it
    kinds = sorted({_kind(path) for path in files} & READERS.keys() - {".json"}) or [".json"]
    files = {path: name for path, name in files.items() if _kind(path) in kinds}
    if not files:
        raise ValueError(f"{what}: no {', '.join(READERS)} in the folder {folder}; correct its path")
    if len(kinds) > 1:
        raise ValueError(
            f"{what}: {folder} holds {' and '.join(kinds)}; name the file, or a folder of one kind"
        )
    splits = {path: _split_of(name) for path, name in files.items()}
    names = sorted(set(splits.values()))
    if len(names) > 1 and split not in names:
        raise ValueError(f"{what}: {folder} holds the splits {', '.join(names)}; set split to one of them")
    return [path for path in files if len(names) == 1 or splits[path] == split]


def _split_of(name: Path) -> str:
    """The split that a shard's name or folder names, `train` if it names none."""
    found = SPLIT.search(name.as_posix())
    split = found[1].lower() if found else "train"
    return SPLIT_NAMES.get(split, split)


def _open(path: Path) -> IO[str]:
    """A text file, unpacked: UTF-8 with or without a byte order mark, UTF-16 with one."""
    import fsspec

    with fsspec.open(path, "rb", compression="infer") as stream:
        begin = stream.read(4)
    encodings = (encoding for mark, encoding in BYTE_ORDER_MARKS.items() if begin.startswith(mark))
    options = {"encoding": next(encodings, "utf-8-sig"), "errors": "surrogateescape", "newline": ""}
    text: IO[str] = fsspec.open(path, "rt", compression="infer", **options).open()
    return text


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Report in one line that a file cannot be unpacked or decoded."""
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno:  # of the disk
            raise
        raise ValueError(
            f"{path}: cannot be unpacked ({error or type(error).__name__}); pack it again"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not {error.encoding} at byte {error.start} ({error.reason}); save it as UTF-8"
        ) from None


def _jsonl_rows(path: Path) -> RawRows:
    with _reported(path), _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip(BLANK):
                yield _json_row(line.strip(BLANK), f"{path}: row {number}")


def _json_row(line: str, place: str) -> tuple[str, Mapping[str, Any]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        fault = f"{_json_fault(error)}{encoding_hint(line)}"
        raise ValueError(f"{place}: not valid JSON ({fault}); correct that line") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: not a JSON object; write one object a line")
    return place, row


def _json_fault(error: Exception) -> str:
    """Why a text is not valid JSON. A number of thousands of digits raises a plain ValueError."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"


def _json_rows(path: Path) -> RawRows:
    """A JSON array of objects, an object that holds one, or lines of objects in spite of the name."""
    with _reported(path), _open(path) as stream:
        text = stream.read()
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            yield from _jsonl_rows(path)
            return
        fault = f"line {error.lineno}: {error.msg}{encoding_hint(text)}"
        raise ValueError(f"{path}: not valid JSON ({fault}); correct it") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({_json_fault(error)}); write a list of objects") from None
    lists = [content] if isinstance(content, list) else []
    if isinstance(content, dict):
        found = [value for value in content.values() if isinstance(value, list) and value]
        lists = [value for value in found if all(isinstance(row, dict) for row in value)]
    if len(lists) != 1:
        raise ValueError(
            f"{path}: not one list of objects; write [{{...}}, ...] (pandas: to_json(orient='records'))"
        )
    for number, row in enumerate(lists[0], start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: row {number}: not a JSON object; write a list of objects")
        yield f"{path}: row {number}", row


def _csv_rows(path: Path) -> RawRows:
    """Rows under a header; the separator is that of the header: a comma, a semicolon or a tab."""
    with _reported(path), _open(path) as stream:
        header = stream.readline()
        stream.seek(0)
        separator = max(",;\t", key=header.count)
        csv.field_size_limit(MAX_FIELD)
        number = 0
        try:
            for row in csv.DictReader(stream, delimiter=separator, strict=True):
                number += 1
                if None in row:
                    raise ValueError(
                        f"{path}: row {number}: more fields than the header has; "
                        f"quote those that hold {separator!r}"
                    )
                yield f"{path}: row {number}", row
        except csv.Error as error:
            raise ValueError(f"{path}: row {number + 1}: not valid CSV ({error}); quote its fields") from None


def _parquet_rows(path: Path) -> RawRows:
    import pyarrow
    import pyarrow.parquet

    try:
        parquet = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a parquet file ({_in_one_line(error)}); write it again") from None
    number = 0
    try:
        for batch in parquet.iter_batches():
            for row in _batch_rows(batch, path, number):
                number += 1
                yield f"{path}: row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        fault = f"damaged after row {number} ({_in_one_line(error)})"
        raise ValueError(f"{path}: {fault}; write it again") from None


def _batch_rows(batch: "RecordBatch", path: Path, before: int) -> list[dict[str, Any]]:
    """The rows of a batch; ValueError, naming row and key, where a text is not UTF-8."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            for key, column in zip(batch.schema.names, batch.columns, strict=True):
                try:
                    column[index].as_py()
                except UnicodeDecodeError as error:
                    odd = f"byte 0x{error.object[error.start]:02x}"
                    raise ValueError(
                        f"{path}: row {before + index + 1}: key '{key}' is not UTF-8 ({odd}); write the file again"
                    ) from None
        raise


def _saved_rows(what: str, folder: Path, split: str) -> RawRows:
    """Rows of a folder that `save_to_disk` of `datasets` wrote."""
    import datasets

    loaded = datasets.load_from_disk(str(folder))
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise ValueError(
                f"{what}: {folder} holds the splits {', '.join(loaded)}; set split to one of them"
            )
        loaded = loaded[split]
    for number, row in enumerate(islice(loaded, len(loaded)), start=1):
        yield f"{folder}: row {number}", row


READERS: dict[str, Callable[[Path], RawRows]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
}
