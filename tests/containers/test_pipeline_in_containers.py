"""`train/tiny` wholly in containers, and once more as processes: the same data, the same numbers to tolerance."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import cluster
from tasks.shared.runs import RunRecord, RunRecords
from tests.flows.conftest import small

pytestmark = pytest.mark.timeout(900)  # a server and two pipelines
FLOW = "from flows.pipeline import train; train('tiny', run={run!r}, overrides={overrides!r})"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunRecord]]:
    """The records of the same recipe under each backend, in one store."""
    home = tmp_path_factory.mktemp("pipeline")
    home.chmod(0o755)  # stages of a launcher that is root run as an ordinary user
    running = cluster.start(home, owned=True)
    try:
        environment = os.environ | cluster.settings(home, running.port)
        for backend in ("docker", "process"):
            command = [sys.executable, "-c", FLOW.format(run=backend, overrides=small())]
            subprocess.run(command, env=environment | {"TIRFLOW_BACKEND": backend}, check=True)
        yield {name: _read(home, name) for name in ("docker", "process")}
    finally:
        cluster.stop(running)


def _read(home: Path, run: str) -> RunRecord:
    return RunRecords(str(home / "store")).read(run)


def test_both_made_the_same_data(records: dict[str, RunRecord]) -> None:
    for label, name in (
        ("prepare", "checkpoint"),
        ("prepare", "problems"),
        ("prepare", "evaluation_sets"),
        ("synthesize", "traces"),
    ):
        assert records["docker"].output(label, name).digest == records["process"].output(label, name).digest


def test_both_learned_and_scored_the_same(records: dict[str, RunRecord]) -> None:
    docker, process = records["docker"].stages, records["process"].stages
    assert list(docker) == list(process)
    assert docker["sft"].metrics["loss"] == pytest.approx(process["sft"].metrics["loss"], abs=1e-3)
    for label, key in (("rl-1", "reward"), ("rl-1", "accuracy"), ("evaluate-rl", "held_out/accuracy")):
        assert docker[label].metrics[key] == pytest.approx(process[label].metrics[key], abs=1e-6), key
