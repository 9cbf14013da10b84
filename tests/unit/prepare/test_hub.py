"""Problem sets from the hub: the real clients against a small hub, pinned revision and all."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest

from data.registry import find_problem_set
from tasks.prepare.problem_sets import require_as_registered, rows_digest
from tasks.prepare.rows import ProblemRow
from tests.unit.prepare.small_hub import small_hub

AMC, AIME = find_problem_set("amc_2023"), find_problem_set("aime_2025")
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


@dataclass(frozen=True)
class Reading:
    """Rows or the error of each source, and the paths that the hub was asked for."""

    found: dict[str, Any]
    asked: list[str]


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    """All sources read by one process, since the clients take seconds to import and know one hub."""
    own = {"source": "hub", "id": "some/set", "revision": REVISION}
    columns = {"problem_column": "Question", "answer_column": "Result"}
    sources = {
        "own": own | columns,
        "bad split": own | columns | {"split": "test"},
        "bad column": own | columns | {"answer_column": "answer"},
        "moved": own | columns | {"revision": "0" * 40},
        "mixed": own | {"id": "some/mixed"},
        "subsets": own | {"id": "some/subsets"},
        "amc": {"source": "registry", "id": "amc_2023"},
        "aime": {"source": "registry", "id": "aime_2025"},
    }
    mixed = {
        "a.jsonl": b'{"problem": "1?", "answer": "1"}\n',
        "b.jsonl": b'{"problem": "2?", "solution": "2"}\n',
    }
    entries = ["- config_name: easy", "  data_files: a.jsonl", "- config_name: hard", "  data_files: b.jsonl"]
    subsets = {"README.md": "\n".join(["---", "configs:", *entries, "---", ""]).encode()}
    sets = {
        ("some/set", REVISION): {"data.jsonl": lines(3, "Question", "Result")},
        ("some/mixed", REVISION): mixed,
        ("some/subsets", REVISION): mixed | subsets,
        (AMC.id, AMC.revision): {"test.jsonl": lines(40, "question", "answer")},
        (AIME.id, AIME.revision): {"test.jsonl": lines(29, "problem", "answer")},
    }
    with small_hub(sets) as (endpoint, asked):
        environment = os.environ | {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path_factory.mktemp("hub")),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        settings = [json.dumps({"name": name.replace(" ", "_")} | source) for name, source in sources.items()]
        command = [sys.executable, "-c", PROGRAM, *settings]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return Reading(dict(zip(sources, found, strict=True)), asked)


def lines(count: int, problem: str, answer: str) -> bytes:
    rows = [{"id": n, problem: f"What is {n} + 1?", answer: n + 1} for n in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_a_pinned_dataset_is_downloaded_checked_and_read(reading: Reading) -> None:
    assert reading.found["own"] == [[f"own/{n}", f"What is {n} + 1?", str(n + 1)] for n in range(3)]
    assert f"/datasets/some/set/resolve/{REVISION}/data.jsonl" in reading.asked
    assert "cannot load some/set at 2fe88a2f1091, split 'test'" in reading.found["bad split"]
    missing = "some/set@2fe88a2f1091: row 1: key 'answer' is missing (the row has Question, Result, id)"
    assert missing in reading.found["bad column"]
    assert "check the network, id, subset and split, or use source = 'file'" in reading.found["moved"]


def test_mismatched_files_and_a_missing_subset_are_one_line(reading: Reading) -> None:
    assert reading.found["mixed"].endswith(
        "/b.jsonl: row 1: key 'answer' is missing (the row has problem, solution); add it or set answer_column"
    )
    for part in ("Config name is missing", "'easy', 'hard'", "check the network, id, subset"):
        assert part in reading.found["subsets"]


def test_a_registered_set_with_other_content_is_an_error(reading: Reading) -> None:
    assert len(reading.found["amc"]) == 40
    wrong = "math-ai/aime25 has 29 rows where data/registry.toml says 30; clear the hub's cache"
    assert wrong in reading.found["aime"]
    rows = [ProblemRow("amc/0", "What is 1 + 1?", "2", "amc")]
    with pytest.raises(ValueError, match=r"other problems or answers than data/registry\.toml says"):
        require_as_registered("amc", replace(AMC, rows=1, digest=rows_digest([])), rows, 0)
    require_as_registered("amc", replace(AMC, rows=1, digest=rows_digest(rows)), rows, 0)
