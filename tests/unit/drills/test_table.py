"""The table of drills: rows are replaced by name, and kills summed over rows."""

from tests.drills import table


def line(drill: str, seen: str) -> dict[str, object]:
    row = {"drill": f"tests/drills/{drill}", "promise": "p", "outcome": "passed", "seen": seen}
    return row | {"seconds": 1.0, "date": "2026-01-01", "commit": "abc"}


def test_rows_are_found_by_file_and_name() -> None:
    text = table.row(line("test_kills.py::test_killed[rl]", "a|b\nc"))
    assert table.rows_of(text) == {("test_kills.py", "killed[rl]"): text}
    assert text.count("\n") == 1 and r"a\|b c" in text


def test_kills_are_added_up_over_the_rows() -> None:
    seen = (
        f"rl: {table.kills_text(21)} (3 stage SIGKILL)",
        f"{table.kills_text(1)} (server); away",
        "12 damages",
    )
    rows = "".join(table.row(line(f"test_kills.py::test_{i}", text)) for i, text in enumerate(seen))
    assert table.kills_of(rows) == 22
