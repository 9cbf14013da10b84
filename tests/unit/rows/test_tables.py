"""Tables: declared types, equal bytes for equal rows, and a card that opens one table of several."""

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from tasks.shared.rows.tables import read_table, write_card, write_table

SCHEMA = pyarrow.schema([("id", pyarrow.string()), ("calls", pyarrow.list_(pyarrow.string()))])
ROWS = [{"id": "a", "calls": ["ok", "error"]}, {"id": "b", "calls": []}]


def test_rows_come_back_and_equal_rows_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        write_table(tmp_path / f"{name}.parquet", ROWS, SCHEMA)
    assert read_table(tmp_path / "one.parquet") == ROWS
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_an_empty_table_keeps_its_types(tmp_path):
    write_table(tmp_path / "empty.parquet", [], SCHEMA)
    assert pyarrow.parquet.read_schema(tmp_path / "empty.parquet").types == SCHEMA.types
    assert read_table(tmp_path / "empty.parquet") == []


def test_a_row_that_differs_from_the_schema_is_refused(tmp_path):
    with pytest.raises(AssertionError, match=r"t\.parquet: row 1 differs from the schema in \['calls'\]"):
        write_table(tmp_path / "t.parquet", [ROWS[0], {"id": "b"}], SCHEMA)


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no such table; run the stage that makes it again"):
        read_table(tmp_path / "none.parquet")


def test_the_card_opens_each_table(tmp_path):
    write_table(tmp_path / "train.parquet", ROWS, SCHEMA)
    write_table(tmp_path / "rejected.parquet", ROWS[:1], SCHEMA)
    (tmp_path / "manifest.json").write_text("{}")
    write_card(tmp_path, {"default": "train.parquet", "rejected": "rejected.parquet"}, "Two tables.")
    cache = str(tmp_path / "cache")
    assert len(datasets.load_dataset(str(tmp_path), split="train", cache_dir=cache)) == 2
    assert len(datasets.load_dataset(str(tmp_path), "rejected", split="train", cache_dir=cache)) == 1
    assert list(pandas.read_parquet(tmp_path / "train.parquet")["id"]) == ["a", "b"]
