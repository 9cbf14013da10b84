"""`train/tiny` in containers, and once more as processes with the same numbers to tolerance."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import cluster
from tasks.shared.runs.record import RunRecord, RunRecords
from tests.flows.conftest import small

pytestmark = pytest.mark.timeout(900)  # a server and two pipelines
FLOW = "from flows.pipeline import train; train('tiny', run={run!r}, overrides={overrides!r})"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a Prefect server."""
    home = tmp_path_factory.mktemp("pipeline")
    home.chmod(0o755)  # stages run as an ordinary user if their launcher is root
    running = cluster.start(home, owned=True)
    try:
        yield home
    finally:
        cluster.stop(running)


@pytest.fixture(scope="module")
def in_containers(home: Path) -> RunRecord:
    """The record of the pipeline whose stages ran in containers."""
    return _run(home, "docker")


def _run(home: Path, backend: str) -> RunRecord:
    running = cluster.find(home)
    assert running is not None
    environment = os.environ | cluster.settings(home, running.port) | {"TIRFLOW_BACKEND": backend}
    command = [sys.executable, "-c", FLOW.format(run=backend, overrides=small())]
    subprocess.run(command, env=environment, check=True)
    return RunRecords(str(home / "store")).read(backend)


def test_a_pipeline_ends(in_containers: RunRecord) -> None:
    """test_docker_backend.py shows that its data is that of the process backend."""
    assert list(in_containers.stages) == ["prepare", "synthesize", "sft", "rl-1", "evaluate-rl", "report"]
    assert in_containers.stages["evaluate-rl"].metrics["held_out/problems"] == 3


@pytest.mark.long
def test_processes_learn_and_score_the_same(home: Path, in_containers: RunRecord) -> None:
    docker, process = in_containers.stages, _run(home, "process").stages
    assert list(docker) == list(process)
    assert docker["sft"].metrics["loss"] == pytest.approx(process["sft"].metrics["loss"], abs=1e-3)
    for label, key in (("rl-1", "reward"), ("rl-1", "accuracy"), ("evaluate-rl", "held_out/accuracy")):
        assert docker[label].metrics[key] == pytest.approx(process[label].metrics[key], abs=1e-6), key
