"""Row tables in artifacts: parquet with a declared schema, and a card with which `load_dataset(directory)` opens them.

The schema is declared, not inferred, so that an empty table or a column of nulls has the same types as a full one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: "pyarrow.Schema") -> None:
    """Write rows as one parquet file. Equal rows give equal bytes. Every row has exactly the columns of the schema."""
    import pyarrow
    import pyarrow.parquet

    names = set(schema.names)
    for number, row in enumerate(rows):
        difference = sorted(names.symmetric_difference(row))
        assert not difference, f"{path.name}: row {number} differs from the schema in {difference}"
    table = pyarrow.Table.from_pylist([dict(row) for row in rows], schema=schema)
    pyarrow.parquet.write_table(table, path)


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a parquet file. ValueError if there is no such file."""
    import pyarrow.parquet

    if not path.is_file():
        raise ValueError(f"{path}: no such table; run the stage that makes it again")
    rows: list[dict[str, Any]] = pyarrow.parquet.ParquetFile(path).read().to_pylist()
    return rows


def write_card(directory: Path, tables: Mapping[str, str], description: str) -> None:
    """Write `README.md`, a dataset card; `tables` maps a configuration's name to its file.

    With it `datasets.load_dataset(directory, "rejected")` opens one table though others lie beside it.
    """
    lines = ["---", "configs:"]
    for name, file_name in tables.items():
        lines += [f"- config_name: {name}", f"  data_files: {file_name}"]
    lines += ["---", "", description, ""]
    (directory / "README.md").write_text("\n".join(lines), encoding="utf-8")
