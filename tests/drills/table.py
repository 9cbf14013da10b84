"""Writes the latest results of the drills into the table of docs/reliability_history.md.

    python -m tests.drills.table results.jsonl

A drill without a result keeps its row; a removed drill loses it. Kills are summed over the rows.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "reliability_history.md"
BEGIN, END = "<!-- drills: begin -->", "<!-- drills: end -->"
HEAD = "| drill | what it shows | outcome | what was seen | s | date, commit |\n|---|---|---|---|---|---|\n"
ROW = re.compile(r"^\| \[(?P<name>.+?)\]\(\.\./tests/drills/(?P<file>\w+\.py)\) \|.*$\n", re.MULTILINE)
KILLS = re.compile(r"\b(\d+) kills? \(")


def kills_text(count: int) -> str:
    """The text of a number of kills, which `kills_of` sums. A drill adds in brackets what was hit."""
    return f"{count} kill{'s' if count != 1 else ''}"


def kills_of(rows: str) -> int:
    """The sum of the kills in all rows."""
    return sum(int(count) for count in KILLS.findall(rows))


def row(line: dict[str, Any]) -> str:
    """One line of the table."""
    file, name = line["drill"].removeprefix("tests/drills/").split("::", 1)
    seen = line["seen"].replace("|", "\\|").replace("\n", " ")
    shown = seen if len(seen) <= 400 else f"{seen[:400]} …"
    link = f"[{name.removeprefix('test_')}](../tests/drills/{file})"
    when = f"{line['date']}, {line['commit']}"
    cells = (link, line["promise"], line["outcome"], shown, f"{line['seconds']:g}", when)
    return f"| {' | '.join(cells)} |\n"


def rows_of(text: str) -> dict[tuple[str, str], str]:
    """(file, name) of each row in `text`, with the row."""
    return {(found["file"], found["name"]): found[0] for found in ROW.finditer(text)}


def exists(file: str, name: str) -> bool:
    """True if a drill of that name exists."""
    path = HERE / file
    return path.is_file() and f"def test_{name.partition('[')[0]}(" in path.read_text()


def main() -> None:
    """Replace the table between its marks."""
    page = PAGE.read_text()
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    lines = map(json.loads, Path(sys.argv[1]).read_text().splitlines())
    rows = rows_of(page) | rows_of("".join(row(line) for line in lines))
    kept = [text for key, text in sorted(rows.items()) if exists(*key)]
    passed = sum("| passed |" in text for text in kept)
    summary = (
        f"{passed} of {len(kept)} drills passed; {kills_of(''.join(kept))} kills in all; "
        f"{os.cpu_count()} CPU cores, no GPU."
    )
    PAGE.write_text(f"{before}{BEGIN}\n{summary}\n\n{HEAD}{''.join(kept)}{after}")
    print(f"{summary} {PAGE}")


if __name__ == "__main__":
    main()
