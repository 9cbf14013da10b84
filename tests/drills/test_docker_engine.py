"""Drills on the Docker engine: killed or stopped while a stage runs in its container, and started again.

make test-docker            # root, dockerd and the images of `make images`; where no other engine runs
"""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import docker
import psutil
import pytest

from tasks.launch.backends.attempt import Event, StageLost, run_on_backend
from tasks.launch.backends.container import SCRATCH_LABEL, private_directory
from tasks.launch.backends.docker import DockerBackend
from tasks.recipes import stage_of
from tasks.shared.contract.stage import StageRequest
from tests.drills.own_docker import OwnDocker, own_docker
from tests.integration import rl_world, sft_world
from tests.waiting import until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Case:
    """What runs when which signal hits the engine."""

    make: Callable[[Path], StageRequest]
    after_step: int
    number: signal.Signals
    live_restore: bool = False


# Longer than the half minute of an engine's absence: an engine that returns ends the containers it finds.
def long_sft(folder: Path) -> StageRequest:
    """SFT of a thousand steps."""
    return sft_world.make_request(folder, epochs=200)


def long_rl(folder: Path) -> StageRequest:
    """250 steps of eight samples with live code."""
    sizes = {"steps_per_round": 250, "prompts_per_step": 2, "samples_per_prompt": 4}
    return rl_world.make_request(folder, rl_world.make_store(folder, hidden=32), **sizes)


CASES = {
    "sft killed": Case(long_sft, 10, signal.SIGKILL),
    "rl killed": Case(long_rl, 1, signal.SIGKILL),
    "sft stopped": Case(long_sft, 10, signal.SIGTERM),
    "sft killed, live-restore": Case(long_sft, 10, signal.SIGKILL, live_restore=True),
}


@pytest.mark.parametrize("name", CASES)
def test_engine_goes_away(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saw: Callable[[str], None]
) -> None:
    """The Docker engine is killed or stopped under a stage: StageLost; a rerun gives equal outputs and no leftovers."""
    case, folder = CASES[name], tmp_path / "f"
    folder.mkdir()
    monkeypatch.setenv("TIRFLOW_HOME", str(folder))
    with own_docker(tmp_path, folder, case.live_restore) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        request = case.make(folder)
        # fails if the images hold other sources
        DockerBackend().identity(*stage_of(request))
        whole = request.model_copy(update={"scratch": str(folder / "scratch" / "whole")})
        outputs = run_on_backend(whole, DockerBackend(), folder / "whole.log", lambda _: None).outputs
        request = request.model_copy(update={"scratch": str(folder / "scratch" / "hit")})
        last, ids = lose(request, engine, case)
        with pytest.raises(StageLost, match="no Docker engine answers"):
            run_on_backend(request, DockerBackend(), folder / "log", lambda _: None)
        took_s = engine.start()
        events: list[Event] = []
        again = run_on_backend(request, DockerBackend(), folder / "log", events.append)
        assert again.outputs == outputs
        assert is_followed(events) == case.live_restore
        first = min((event["step"] for event in events if event["event"] == "progress"), default=0)
        if request.stage == "rl":  # saves its state at each step
            assert first > last
        until(
            lambda: not left(engine, request, ids), timeout_s=30
        )  # the engine's own processes end after the answer
    goes_on = "followed" if case.live_restore else f"resumed at step {first}"
    saw(f"hit after step {last}, engine back in {took_s:.1f} s, {goes_on}, {len(outputs)} equal outputs")


def lose(request: StageRequest, engine: OwnDocker, case: Case) -> tuple[int, list[str]]:
    """Run it and end the engine meanwhile: StageLost. Returns the last step seen and its containers' ids."""
    events: list[Event] = []

    def step() -> int:
        return max((event["step"] for event in events if event["event"] == "progress"), default=0)

    with ThreadPoolExecutor(1) as pool:
        log = Path(request.scratch).with_suffix(".log")
        running = pool.submit(run_on_backend, request, DockerBackend(), log, events.append)
        until(lambda: step() >= case.after_step or running.done())
        ids = [container.id for container in containers(engine, request)]
        assert ids, running.exception()
        engine.end(case.number)
        with pytest.raises(StageLost, match="the Docker engine stopped or does not answer"):
            running.result(120)
    return step(), ids


def is_followed(events: list[Event]) -> bool:
    return any("following that one" in str(event.get("message")) for event in events)


def containers(engine: OwnDocker, request: StageRequest) -> list[docker.models.containers.Container]:
    wanted = {"label": f"{SCRATCH_LABEL}={request.scratch}"}
    return list(docker.DockerClient(engine.address).containers.list(all=True, filters=wanted))


def left(engine: OwnDocker, request: StageRequest, ids: list[str]) -> list[str]:
    """Leftovers of a request and its containers on this host: containers, processes, mounts, files."""
    found = [str(container.name) for container in containers(engine, request)]
    names = (request.scratch, *ids)
    commands = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    found += [command for command in commands if any(name in command for name in names)]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [mount for mount in mounts if any(name in mount for name in names)]
    directory = private_directory(Path(request.scratch))
    return found + ([str(directory)] if directory.exists() else [])
