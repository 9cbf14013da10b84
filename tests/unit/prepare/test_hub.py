"""Problem sets from the hub: the real clients against a hub of one repository, pinned revision and all."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.registry import find_problem_set
from tasks.prepare.problem_sets import require_as_registered, rows_digest
from tasks.prepare.rows import ProblemRow
from tests.unit.prepare.small_hub import small_hub

REVISION = "2fe88a2f1091d5048c0f36abc874fb997b3dd99a"
PROGRAM = """
import json, sys
from tasks.prepare.problem_sets import read_problem_set
from tasks.prepare.config import ProblemSource
results = []
for settings in sys.argv[1:]:
    try:
        read = read_problem_set(ProblemSource.model_validate_json(settings), 0)
        results.append([[row.id, row.problem, row.answer] for row in read.rows])
    except ValueError as error:
        results.append(str(error))
print(json.dumps(results))
"""


def read(endpoint: str, home: Path, *settings: dict[str, object]) -> list[Any]:
    """Rows or the error that a process reads from this hub with each of the settings."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-c", PROGRAM, *map(json.dumps, settings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return results


def test_a_pinned_dataset_is_downloaded_checked_and_read(tmp_path):
    rows = [{"id": n, "Question": f"What is {n} + 1?", "Result": n + 1} for n in range(3)]
    files = {"data.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}
    columns = {"problem_column": "Question", "answer_column": "Result"}
    own = {"name": "own", "source": "hub", "id": "some/set", "revision": REVISION, **columns}
    others = ({"split": "test"}, {"answer_column": "answer"}, {"revision": "0" * 40})
    with small_hub("some/set", REVISION, files) as (endpoint, asked):
        found, bad_split, bad_column, moved = read(
            endpoint, tmp_path, own, *(own | other for other in others)
        )
    assert found == [[f"own/{n}", f"What is {n} + 1?", str(n + 1)] for n in range(3)]
    assert f"/datasets/some/set/resolve/{REVISION}/data.jsonl" in asked
    assert "problem set 'own': cannot load some/set at 2fe88a2f1091, split 'test'" in bad_split
    assert (
        "some/set@2fe88a2f1091: row 1: key 'answer' is missing (the row has Question, Result, id)"
        in bad_column
    )
    assert "check the network, id, subset and split, or use source = 'file'" in moved


def test_mismatched_files_and_a_missing_subset_are_one_line(tmp_path):
    own = {"name": "own", "source": "hub", "id": "some/set", "revision": REVISION}
    files = {
        "a.jsonl": b'{"problem": "1?", "answer": "1"}\n',
        "b.jsonl": b'{"problem": "2?", "solution": "2"}\n',
    }
    with small_hub("some/set", REVISION, files) as (endpoint, _):
        [said] = read(endpoint, tmp_path / "a", own)
    assert said.endswith(
        "/b.jsonl: row 1: key 'answer' is missing (the row has problem, solution); add it or set answer_column"
    )
    entries = ["- config_name: easy", "  data_files: a.jsonl", "- config_name: hard", "  data_files: b.jsonl"]
    configs = "\n".join(["---", "configs:", *entries, "---", ""]).encode()
    with small_hub("some/set", REVISION, files | {"README.md": configs}) as (endpoint, _):
        [said] = read(endpoint, tmp_path / "b", own)
    for part in ("Config name is missing", "'easy', 'hard'", "check the network, id, subset"):
        assert part in said, said


def test_a_registered_set_with_other_content_is_an_error(tmp_path):
    entry = find_problem_set("amc_2023")
    registered = {"name": "amc", "source": "registry", "id": "amc_2023"}
    for rows in (40, 39):
        lines = [json.dumps({"id": n, "question": f"What is {n} + 1?", "answer": n + 1}) for n in range(rows)]
        with small_hub(entry.id, entry.revision, {"test.jsonl": "\n".join(lines).encode()}) as (endpoint, _):
            [found] = read(endpoint, tmp_path / str(rows), registered)
        if rows == 40:
            assert len(found) == 40
        else:
            assert (
                "math-ai/amc23 has 39 rows where data/registry.toml says 40; clear the hub's cache" in found
            )
    rows = [ProblemRow("amc/0", "What is 1 + 1?", "2", "amc")]
    with pytest.raises(ValueError, match=r"other problems or answers than data/registry\.toml says"):
        require_as_registered("amc", replace(entry, rows=1, digest=rows_digest([])), rows, 0)
    require_as_registered("amc", replace(entry, rows=1, digest=rows_digest(rows)), rows, 0)
