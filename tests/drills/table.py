"""Writes what the drills have seen last into the table of docs/reliability.md.

python -m tests.drills.table results.jsonl
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- drills: begin -->", "<!-- drills: end -->"
HEAD = "| drill | what it shows | outcome | what was seen | s | date, commit |\n|---|---|---|---|---|---|\n"


def last_of_each(path: Path) -> list[dict[str, Any]]:
    """The last line of each drill, in the order of their names."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for _, line in sorted({line["drill"]: line for line in lines}.items())]


def row(line: dict[str, Any]) -> str:
    """One line of the table."""
    file, name = line["drill"].removeprefix("tests/drills/").split("::", 1)
    seen = line["seen"].replace("|", "\\|").replace("\n", " ")
    shown = seen if len(seen) <= 400 else f"{seen[:400]} …"
    link = f"[{name.removeprefix('test_')}](../tests/drills/{file})"
    when = f"{line['date']}, {line['commit']}"
    cells = (link, line["promise"], line["outcome"], shown, f"{line['seconds']:g}", when)
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Replace the table between its marks."""
    lines = last_of_each(Path(sys.argv[1]))
    passed = sum(line["outcome"] == "passed" for line in lines)
    hardware = f"{os.cpu_count()} CPU cores, no GPU"
    table = f"{passed} of {len(lines)} drills passed; {hardware}.\n\n{HEAD}{''.join(map(row, lines))}"
    page = PAGE.read_text()
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    PAGE.write_text(f"{before}{BEGIN}\n{table}{after}")
    print(f"{passed} of {len(lines)} drills passed; {PAGE}")


if __name__ == "__main__":
    main()
