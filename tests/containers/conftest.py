"""A home with prepared inputs, a stage that runs for minutes in its container, and a launcher to kill."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tasks.launch.backends.attempt import run_on_backend
from tasks.launch.backends.container import SCRATCH_LABEL, name_of
from tasks.launch.backends.docker import DockerBackend
from tasks.launch.keys import derive_seed
from tasks.recipes import load_recipe
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.stage import StageRequest
from tests.flows.conftest import small
from tests.waiting import until

LAUNCHER = """
import sys
from pathlib import Path
from tasks.launch.backends.docker import DockerBackend
from tasks.launch.backends.attempt import run_on_backend
from tasks.shared.contract.stage import StageRequest
request = StageRequest.model_validate_json(Path(sys.argv[1]).read_text())
run_on_backend(request, DockerBackend(), Path(sys.argv[1] + ".log"), lambda event: None)
"""


@dataclass(frozen=True)
class World:
    """One home, its engine, and the artifacts that stages start from."""

    home: Path
    engine: docker.DockerClient
    inputs: dict[str, ArtifactRef]

    def request(self, stage: str, name: str, **changes: object) -> StageRequest:
        """A stage of the tiny world with a scratch directory of that name."""
        config = load_recipe("tiny", small(**changes)).for_stage(stage).model_dump(mode="json")
        names = {"synthesize": ("problems", "evaluation_sets"), "sft": ("checkpoint", "traces")}.get(
            stage, ()
        )
        return StageRequest(
            stage=stage,
            run="containers",
            config=config,
            inputs={name: self.inputs[name] for name in names},
            seed=derive_seed(0, stage),
            store=str(self.home / "store"),
            scratch=str(self.home / "scratch" / name),
        )

    def long_sft(self, name: str) -> StageRequest:
        """SFT that would take many minutes."""
        steps = {"sft.max_steps": 5000, "sft.epochs": 5000, "sft.checkpoint_every_steps": 5000}
        return self.request("sft", name, **steps)

    def launch(self, request: StageRequest) -> subprocess.Popen[bytes]:
        """A process that runs the request."""
        path = self.home / f"{Path(request.scratch).name}.json"
        path.write_text(request.model_dump_json())
        return subprocess.Popen([sys.executable, "-c", LAUNCHER, str(path)])

    def container(self, request: StageRequest, part: str = "stage") -> Container:
        return self.engine.containers.get(name_of(Path(request.scratch), part))

    def wait_for_container(self, request: StageRequest) -> Container:
        """The stage's container after the stage's first line."""
        until(lambda: self.left(request) > 0)
        until(lambda: b"{" in self.container(request).logs(stdout=True, stderr=False))
        return self.container(request)

    def left(self, request: StageRequest) -> int:
        """The number of a request's containers."""
        label = f"{SCRATCH_LABEL}={request.scratch}"
        return len(self.engine.containers.list(all=True, filters={"label": label}, ignore_removed=True))


@pytest.fixture(scope="session")
def world(empty_world: World) -> World:
    """Prepared and synthesized in containers."""
    for stage in ("prepare", "synthesize"):
        request = empty_world.request(stage, stage)
        log = empty_world.home / f"{stage}.log"
        empty_world.inputs.update(run_on_backend(request, DockerBackend(), log, lambda _: None).outputs)
    return empty_world


@pytest.fixture(scope="session")
def empty_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An empty home, which the environment points to."""
    home = tmp_path_factory.mktemp("containers")
    home.chmod(0o755)  # stages run as an ordinary user if their launcher is root
    os.environ["TIRFLOW_HOME"] = str(home)
    engine = docker.from_env()
    try:
        yield World(home, engine, {})
    finally:
        del os.environ["TIRFLOW_HOME"]
        for container in engine.containers.list(all=True, filters={"label": SCRATCH_LABEL}):
            if container.labels[SCRATCH_LABEL].startswith(str(home)):
                container.remove(force=True)
