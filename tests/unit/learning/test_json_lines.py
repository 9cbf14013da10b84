"""Metrics files across a kill."""

import json
from pathlib import Path

from tasks.shared.learning.json_lines import JsonLines


def test_lines_of_later_steps_and_torn_lines_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "rew')
    lines = JsonLines(path, last_step=2)
    lines.append({"step": 3, "again": True})
    assert lines.read() == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]
