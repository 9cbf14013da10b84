"""Files of every format of public sets: rows with their positions, and one line for unreadable ones."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from tasks.shared.rows.raw import file_rows

ROWS = [{"problem": "Où est 1 + 1?", "answer": "2"}, {"problem": 'A "b", c;\nd', "answer": "3"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
ARRAY = json.dumps(ROWS, ensure_ascii=False, indent=1)
CSV = 'problem,answer\nOù est 1 + 1?,2\n"A ""b"", c;\nd",3\n'


def rows_of(path: Path, split: str = "train") -> list[dict[str, Any]]:
    return [dict(row) for _, row in file_rows("set 'mine'", path, split)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.JSONL", LINES.encode()),
        ("a.ndjson", LINES.encode("utf-8-sig")),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.jsonl.bz2", bz2.compress(LINES.encode("utf-8-sig"))),
        ("a.json.xz", lzma.compress(ARRAY.encode())),
        ("a.jsonl", LINES.replace("\n", "\r\n\r\n").encode()),
        ("a.jsonl", LINES.encode("utf-16")),
        ("a.jsonl", LINES.encode("utf-32")),
        ("a.jsonl", b"".join(line.encode("utf-8-sig") for line in LINES.splitlines(keepends=True))),
        ("a.json", ARRAY.encode()),
        ("a.json", ARRAY.encode("utf-8-sig")),
        ("a.json", json.dumps({"version": 1, "names": ["x"], "data": ROWS}).encode()),
        ("a.json", LINES.encode()),
        ("a.csv", CSV.encode()),
        ("a.csv", CSV.encode("utf-8-sig")),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("a.tsv", b'problem\tanswer\n"O\xc3\xb9 est 1 + 1?"\t2\n"A ""b"", c;\nd"\t3\n'),
        ("a.csv", 'problem;answer\nOù est 1 + 1?;2\n"A ""b"", c;\nd";3\n'.encode()),
    ],
)
def test_one_set_in_many_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert rows_of(path) == ROWS


def test_rows_of_a_file_have_places(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n" + LINES)
    assert [place for place, _ in file_rows("mine", tmp_path / "a.jsonl")] == [
        f"{tmp_path}/a.jsonl: row {number}" for number in (2, 3)
    ]


def shard(folder: Path, name: str, *numbers: int) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame({"n": list(numbers)}).to_parquet(path)


def test_a_folder_of_shards_is_read_in_order_and_by_split(tmp_path: Path) -> None:
    shard(tmp_path, "data/train-00001-of-00002.parquet", 3)
    shard(tmp_path, "data/train-00000-of-00002.parquet", 1, 2)
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "README.md").write_text("card")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.jsonl").write_text("{}\n")
    assert [row["n"] for row in rows_of(tmp_path)] == [1, 2, 3]
    assert [row["n"] for row in rows_of(tmp_path, "anything")] == [1, 2, 3], "one split needs no name"
    shard(tmp_path, "data/test-00000-of-00001.parquet", 9)
    assert [row["n"] for row in rows_of(tmp_path)] == [1, 2, 3]
    assert [row["n"] for row in rows_of(tmp_path, "test")] == [9]
    with pytest.raises(ValueError, match="holds the splits test, train; set split to one of them"):
        rows_of(tmp_path, "validation")
    (tmp_path / "more.jsonl").write_text(LINES)
    with pytest.raises(ValueError, match=r"holds \.jsonl and \.parquet; name the file"):
        rows_of(tmp_path)


def test_shards_without_a_split_in_their_names_are_one_set(tmp_path: Path) -> None:
    (tmp_path / "part-0.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}\n', mtime=0))
    (tmp_path / "part-1.jsonl").write_text('{"n": 2}\n')
    assert [row["n"] for row in rows_of(tmp_path)] == [1, 2]


def test_what_datasets_saved_to_disk_is_read(tmp_path: Path) -> None:
    one, other = (datasets.Dataset.from_list(rows) for rows in (ROWS, ROWS[:1]))
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": other}).save_to_disk(str(tmp_path / "both"))
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "both") == ROWS
    assert rows_of(tmp_path / "both", "test") == ROWS[:1]
    with pytest.raises(ValueError, match="holds the splits train, test; set split"):
        rows_of(tmp_path / "both", "dev")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n[1]\n', r"a\.jsonl: row 2: not a JSON object"),
        ("a.jsonl", LINES.encode("utf-16-le"), r"row 1: not valid JSON .*zero bytes; it looks like utf-16"),
        ("a.jsonl", b"[" * 100_000, r"row 1: not valid JSON \(nested too deeply"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", r"row 1: not valid JSON \(a number of too many digits"),
        ("a.json", b'[{"a": ' + b"9" * 5000 + b"}]", r"not valid JSON \(a number of too many digits"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz: cannot be unpacked"),
        ("a.jsonl.gz", gzip.compress(LINES.encode() * 9, mtime=0)[:-20], r"a\.jsonl\.gz: cannot be unpacked"),
        ("a.jsonl.bz2", b"no bzip2", r"a\.jsonl\.bz2: cannot be unpacked"),
        ("a.json", b'{"problem": {"0": "x"}}', r"a\.json: not one list of objects; .*orient='records'"),
        ("a.json", b'[{"a": 1}, 2]', r"a\.json: row 2: not a JSON object"),
        ("a.json", b'[{"a": 1},\n{"b"]', r"a\.json: not valid JSON \(line 2"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a\.csv: row 2: more fields than the header has"),
        ("a.csv", b'a,b\n1,"2\n', r"a\.csv: row 1: not valid CSV"),
        ("a.parquet", b"PAR1", r"a\.parquet: not a parquet file"),
        ("a.txt", b"x", r"a\.txt is none of \.jsonl"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        rows_of(path)
    assert "\n" not in str(caught.value)


def test_bytes_in_a_text_column_are_refused_with_row_and_key(tmp_path: Path) -> None:
    raw = pyarrow.array([b"fine", "caf\xe9".encode("latin-1")], pyarrow.binary())
    text = pyarrow.StringArray.from_buffers(2, *raw.buffers()[1:])
    pyarrow.parquet.write_table(pyarrow.table({"answer": text}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: row 2: key 'answer' is not UTF-8 \(byte 0xe9\)"):
        rows_of(tmp_path / "a.parquet")


def test_a_truncated_parquet_file_is_refused_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"{number} " * 50 for number in range(2000)]
    pyarrow.parquet.write_table(pyarrow.table({"a": texts}), path, row_group_size=500, use_dictionary=False)
    content = bytearray(path.read_bytes())
    for place, said in (
        (len(content) // 2, r"damaged after row \d+ \("),
        (len(content) - 300, "not a parquet file"),
    ):
        damaged = content.copy()
        damaged[place : place + 250] = b"\xff" * 250
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"a\.parquet: {said}"):
            rows_of(path)
