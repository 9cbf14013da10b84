"""Stages in containers: what they see, how they end, also when their launcher is killed."""

import json
import time
from pathlib import Path

import pytest

from tasks.launch.backends.attempt import StageFailed, StageLost, StageStopped, run_on_backend
from tasks.launch.backends.container import private_directory
from tasks.launch.backends.docker import DockerBackend
from tasks.launch.backends.process import ProcessBackend
from tasks.recipes import load_recipe
from tasks.sft.spec import SFT
from tasks.shared.contract.stage import StageRequest
from tests.containers.conftest import World
from tests.waiting import until

# Run inside a stage's container, beside the stage.
PROBE = """
import json, os, pathlib, socket
def refused(path):
    try:
        with open(path, "a"): return False
    except OSError: return True
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
mounts = [line.split()[1] for line in open("/proc/mounts")]
print(json.dumps({
    "environment": sorted(os.environ), "uid": os.getuid(),
    "capabilities": status["CapEff"].strip(), "no_new_privileges": status["NoNewPrivs"].strip(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "mounts": [m for m in mounts if not m.startswith(("/proc", "/sys", "/dev"))],
    "read_only": [p for p in ("/opt/tirflow/x", "/etc/x", "/usr/x", "/home/x") if refused(p)],
    "processes": sorted(p.name for p in pathlib.Path("/proc").iterdir() if p.name.isdigit()),
}))
"""
OF_THE_IMAGE = {
    "PATH",
    "HOSTNAME",
    "LANG",
    "PYTHONPATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
    "LC_CTYPE",
}
ENGINES_OWN = {"/", "/tmp", "/usr/sbin/docker-init", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}
OF_THE_BACKEND = {"HOME", "USER", "OMP_NUM_THREADS", "TIRFLOW_HOME", "TIRFLOW_IMAGE", "TORCH_COMPILE_DISABLE"}


@pytest.fixture
def left_behind(world: World) -> StageRequest:
    """A stage that still runs after its launcher was killed."""
    request = world.long_sft("left-behind")
    launcher = world.launch(request)
    world.wait_for_container(request)
    launcher.kill()
    launcher.wait()
    assert world.container(request).status == "running"
    return request


@pytest.mark.parametrize("stage", ["prepare", "synthesize"])
def test_digests_are_those_of_the_process_backend(world: World, stage: str, tmp_path: Path) -> None:
    request = world.request(stage, f"{stage}-process")
    outputs = run_on_backend(request, ProcessBackend(), tmp_path / "log", lambda _: None).outputs
    for name, ref in outputs.items():
        assert ref.digest == world.inputs[name].digest, name


def test_a_stage_sees_its_list_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "canary")
    request = world.long_sft("probed")
    launcher = world.launch(request)
    container = world.wait_for_container(request)
    seen = json.loads(container.exec_run(["python", "-c", PROBE]).output)
    launcher.terminate()
    launcher.wait()
    world.engine.containers.get(container.id).remove(force=True)
    assert set(seen["environment"]) <= OF_THE_IMAGE | OF_THE_BACKEND | {"LC_ALL", "TZ", "DS_ACCELERATOR"}
    assert set(seen["mounts"]) - ENGINES_OWN == {request.scratch, request.store}
    assert seen["interfaces"] == ["lo"]
    assert seen["uid"] != 0
    assert (int(seen["capabilities"], 16), seen["no_new_privileges"]) == (0, "1")
    assert len(seen["read_only"]) == 4


def test_secrets_come_as_a_file_that_inspection_does_not_show(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-token")
    request = world.request("prepare", "secret")
    launcher = world.launch(request)
    until(lambda: world.left(request) > 0 and world.container(request).status == "running")
    container = world.container(request)
    code, text = container.exec_run(["cat", "/run/secrets/tirflow.json"])
    assert (code, json.loads(text)) == (0, {"HF_TOKEN": "canary-token"})
    assert "canary-token" not in json.dumps(container.attrs)
    assert launcher.wait(120) == 0
    assert not private_directory(Path(request.scratch)).exists(), "secrets and socket stay on the host"


def test_a_cancelled_run_is_gone_within_ten_seconds(world: World, tmp_path: Path) -> None:
    request = world.long_sft("cancelled")
    cancelled_at: list[float] = []

    def should_stop() -> bool:
        if world.left(request) and not cancelled_at:
            cancelled_at.append(time.monotonic())
        return bool(cancelled_at)

    with pytest.raises(StageStopped):
        run_on_backend(request, DockerBackend(), tmp_path / "log", lambda _: None, should_stop)
    assert time.monotonic() - cancelled_at[0] < 10
    assert world.left(request) == 0


def test_the_same_work_follows_a_stage_that_lost_its_launcher(
    world: World, left_behind: StageRequest, tmp_path: Path
) -> None:
    container = world.container(left_behind)
    events: list[dict[str, object]] = []

    def remove_once_followed() -> bool:
        if any(event["event"] == "progress" for event in events) and world.left(left_behind):
            world.engine.containers.get(container.id).remove(force=True)
        return False

    with pytest.raises(StageLost, match="its container is gone"):
        run_on_backend(left_behind, DockerBackend(), tmp_path / "log", events.append, remove_once_followed)
    assert "following that one" in str(events[0]["message"])
    assert world.left(left_behind) == 0


def test_the_next_start_removes_leftovers_of_a_dead_launcher(
    world: World, left_behind: StageRequest, tmp_path: Path
) -> None:
    run_on_backend(
        world.request("prepare", "next"), DockerBackend(), tmp_path / "log", lambda _: None, fresh=True
    )
    assert world.left(left_behind) == 0


def test_memory_that_runs_out_is_named(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIRFLOW_STAGE_MEMORY", "120m")
    with pytest.raises(StageFailed, match="ran out of memory; raise TIRFLOW_STAGE_MEMORY") as caught:
        run_on_backend(world.long_sft("small-memory"), DockerBackend(), tmp_path / "log", lambda _: None)
    assert not isinstance(caught.value, StageLost), "trying again would not help"


def test_a_missing_image_and_one_of_other_sources_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_recipe("tiny").for_stage("sft")
    monkeypatch.setenv("TIRFLOW_IMAGES", "nobody-has-this-")
    with pytest.raises(ValueError, match="not on this host; make images ROLES=train"):
        DockerBackend().identity(SFT, config)
    train = world.engine.images.get("tirflow-train")
    stale = world.engine.containers.create(train.id)
    stale.commit("tirflow-stale-train", conf={"Labels": {**train.labels, "tirflow.code.sft": "0"}})
    stale.remove()
    monkeypatch.setenv("TIRFLOW_IMAGES", "tirflow-stale-")
    try:
        with pytest.raises(ValueError, match="holds other sources of 'sft' than these; make images"):
            DockerBackend().identity(SFT, config)
    finally:
        world.engine.images.remove("tirflow-stale-train")
