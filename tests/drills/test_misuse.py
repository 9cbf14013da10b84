"""Drills on misuse: huge rows, foreign files, names used twice, deleted artifacts, text with terminal commands.

Pickles and remote code: tests/integration/test_bad_input.py, tests/unit/learning/test_engine.py (trainer states); text
in the report: tests/browser/test_viewer.py; recipes changed between runs: tests/unit/flows/test_artifacts.py.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.shared.artifacts import ArtifactError, ArtifactRef, Store
from tasks.shared.artifacts.lineage import lineage
from tasks.shared.runs.record import RunRecords, StageRecord
from tests.artifacts import publish
from tests.drills import worlds


def message_of(folder: Path, rows: list[dict[str, Any]]) -> str:
    """The line in which `prepare` refuses these rows. Its exit code is that of a user's mistake."""
    request = worlds.prepare(folder)
    problems = folder / "mine.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = {"name": "mine", "source": "file", "path": str(problems)}
    config = {**request.config, "data": {**request.config["data"], "train": [mine]}}
    path = folder / "request.json"
    path.write_text(request.model_copy(update={"config": config}).model_dump_json())
    command = [sys.executable, "-m", "tasks.prepare.main", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=worlds.environment(folder))
    assert done.returncode == 2, done.stderr[-2000:]
    return str(json.loads(done.stdout.splitlines()[-1])["message"])


GOOD = {"problem": "What is 1 plus 1?", "answer": 2}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"problem": "word " * 10_000_000, "answer": 2}, id="50_MB_problem"),
        pytest.param({"problem": "What is 2 plus 2?", "answer": "1" * 50_000_000}, id="50_MB_answer"),
        pytest.param({"problem": "What is 2 plus 2?", "answer": "9" * 5000}, id="5000_digits"),
    ],
)
def test_huge_rows(tmp_path: Path, saw: Callable[[str], None], row: dict[str, Any]) -> None:
    """A dataset row of 50 MB is refused in one short line that names row and key, before anything heavy starts."""
    message = message_of(tmp_path, [GOOD, row])
    assert "row 2" in message and len(message) < 500 and "\n" not in message
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    saw(f"{message.split(': ', 1)[1]}; peak {peak:.0f} MiB")


def test_control_characters_in_messages(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """A dataset's text has terminal commands and line breaks: the message quotes it in one printable line."""
    message = message_of(
        tmp_path, [{"problem": "What is 1 plus 1?", "answer": "\x1b]0;owned\x07\n\u202etwo"}]
    )
    assert message.isprintable() and "owned" in message
    saw(message.split(": ", 1)[1])


def test_deleted_artifact_in_the_lineage(tmp_path: Path) -> None:
    """An artifact in the middle of a lineage is deleted: the rest is readable, and the gap is shown and reported."""
    store, inputs, chain = Store(str(tmp_path)), {}, []
    for kind in ("problems", "traces", "checkpoint"):
        ref = publish(store, kind, {"data": kind}, inputs)
        inputs, chain = {kind: ref}, [*chain, ref]
    store.remove(chain[1].location)
    assert lineage(store, chain[2]) == {chain[2]: store.manifest(chain[2]), chain[1]: None}
    store.fetch(chain[2])
    with pytest.raises(
        ArtifactError, match="no such artifact in this store; run the stage that makes it again"
    ):
        store.fetch(chain[1])


def test_links_out_of_the_store(tmp_path: Path) -> None:
    """A file or folder of an artifact is replaced by a link to the same bytes elsewhere: it is refused by name."""
    store = Store(str(tmp_path / "store"))
    ref = publish(store, "checkpoint", {"deep/model.safetensors": "weights"})
    outside = tmp_path / "outside"
    (store.fetch(ref) / "deep").rename(outside)
    (tmp_path / "store" / ref.location / "deep").symlink_to(outside)
    with pytest.raises(ArtifactError, match="deep"):
        Store(store.root).fetch(ref)
    (tmp_path / "store" / ref.location / "deep").unlink()
    (tmp_path / "store" / ref.location / "deep").mkdir()
    (tmp_path / "store" / ref.location / "deep/model.safetensors").symlink_to(outside / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        Store(store.root).fetch(ref)


def test_two_pipelines_with_one_name(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """Two pipelines use one run name at once: the record stays intact and loses no finished stage of either."""
    ref = ArtifactRef("traces", "0" * 64, f"traces/{'0' * 16}-{'0' * 8}")

    def pipeline(which: int) -> None:
        records = RunRecords(str(tmp_path))
        records.begin("same", {"name": "tiny", "rl": {"rounds": 100}})
        for number in range(20):
            record = StageRecord(
                stage="rl", inputs={}, outputs={"x": ref}, metrics={}, seconds=0, finished="now"
            )
            records.add("same", f"evaluate-{which}-{number}", record)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(pipeline, range(4)))
    assert len(RunRecords(str(tmp_path)).read("same").stages) == 80
    saw("4 writers, 80 stages noted")
