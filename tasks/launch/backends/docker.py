"""The docker backend: a stage in a container of its role's image, the interpreter in another one beside it.

A stage sees its scratch directory, the store, the files it was given and nothing else of the host; the environment is
an allow-list, secrets come as a file, and there is no network unless the stage cannot do without. A container outlives
a launcher that dies: the same work, started again, follows it; any other start on this host removes it.
"""

import json
from pathlib import Path
from typing import Any

import docker
from docker.errors import ImageNotFound, NotFound
from docker.models.containers import Container
from docker.models.images import Image
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

from tasks.launch.backends.access import give, hand_over, mounts_of, needs_network, user_of_stages
from tasks.launch.backends.container import (
    PART_LABEL,
    SCRATCH_LABEL,
    RunningContainer,
    asking_engine,
    name_of,
    private_directory,
    reap,
    remove,
)
from tasks.launch.backends.sandbox_container import MOUNTED, SOCKET, sandbox_options, wait_until_ready
from tasks.recipes import find_stage, stage_of
from tasks.shared.config import SandboxConfig, StageConfig
from tasks.shared.contract.code_digest import code_digest
from tasks.shared.contract.environment import container_environment, docker_settings, home, stage_secrets
from tasks.shared.contract.spec import StageSpec
from tasks.shared.contract.stage import StageRequest
from tasks.shared.tools.interpreter import sandbox_settings

GRACE_S = 6.0  # with what the engine itself needs, a stopped stage is gone within 10 s
SECRETS = "/run/secrets/tirflow.json"
SOCKETS = "sandbox"  # of the interpreter's, in the private directory of an attempt
MAX_PROCESSES = 8192
# CPU images have no C++ compiler, but vLLM lets torch compile some small functions even in eager mode.
NO_COMPILER = {"TORCH_COMPILE_DISABLE": "1"}
INFINIBAND = Path("/dev/infiniband")  # the network between GPU hosts, where there is one
COMPILED = "compiled"  # below the home: what vLLM compiles for a model, minutes of each start of an engine
PINNED = Ulimit(name="memlock", soft=-1, hard=-1)  # memory that GPUs read from
LOGS = LogConfig(type=LogConfig.types.JSON, config={"max-size": "256m", "max-file": "2"})


class DockerBackend:
    """Runs stages in containers of this host's engine."""

    def identity(self, spec: StageSpec[Any], config: StageConfig) -> str:
        """The packages of the images; the sources in them must be these ones. See `Backend.identity`."""
        engine = _connect()
        role = role_of(spec, config)
        labels = _image(engine, role).labels
        if labels.get(f"tirflow.code.{spec.name}") != code_digest(spec.name):
            raise ValueError(
                f"image {_image_name(role)}: holds other sources of '{spec.name}' than these; make images"
            )
        return f"packages {labels['tirflow.packages']}"

    @asking_engine()
    def find(self, request_path: Path, log_path: Path) -> RunningContainer | None:
        """Return the container of this scratch directory, if it still runs or ended well; see `Backend.find`."""
        try:
            container = _connect().containers.get(name_of(request_path.parent, "stage"))
        except NotFound:
            return None
        if container.status != "running" and container.attrs["State"]["ExitCode"]:
            return None
        # The lines of that second may come twice.
        since = int(log_path.stat().st_mtime) if log_path.exists() else 0
        return RunningContainer(container, log_path, GRACE_S, since)

    @asking_engine()
    def start(self, request_path: Path, log_path: Path, lock: int) -> RunningContainer:
        """Start the stage; see `Backend.start`. The lock stays with the launcher: it tells whether that lives."""
        engine = _connect()
        request = StageRequest.model_validate_json(request_path.read_text())
        scratch = Path(request.scratch)
        reap(engine)
        remove(engine, scratch)
        hand_over(request)
        directory = private_directory(scratch)
        directory.mkdir(parents=True, mode=0o700)
        give(directory)
        try:
            sandbox = _start_sandbox(engine, request, directory) if _has_sandbox(request) else None
            container = self._create(engine, request, directory)
            container.start()
            if sandbox is not None:  # the stage waits for the socket
                wait_until_ready(sandbox, directory / SOCKETS)
        except BaseException:
            remove(engine, scratch)
            raise
        return RunningContainer(container, log_path, GRACE_S)

    def _create(self, engine: docker.DockerClient, request: StageRequest, directory: Path) -> Container:
        """Create the stage's container without starting it."""
        scratch, mounts = Path(request.scratch), mounts_of(request)
        spec, config = stage_of(request)
        image = _image(engine, role_of(spec, config))
        environment = container_environment() | {"TIRFLOW_IMAGE": image.id, "HOME": "/tmp", "USER": "tirflow"}
        if image.labels["tirflow.accelerator"] == "cpu":
            environment |= NO_COMPILER
        else:
            compiled = _compiled(image)
            mounts.append(Mount(str(compiled), str(compiled), type="bind"))
            environment["VLLM_CACHE_ROOT"] = str(compiled)
        if _has_sandbox(request):
            mounts.append(Mount(MOUNTED, str(directory / SOCKETS), type="bind", read_only=True))
            environment["TIRFLOW_SANDBOX_ADDRESS"] = f"unix:{SOCKET}"
        if secrets := stage_secrets(spec.secrets, config):
            mounts.append(
                Mount(SECRETS, str(_write_secrets(directory, secrets)), type="bind", read_only=True)
            )
            environment["TIRFLOW_SECRETS_FILE"] = SECRETS
        return engine.containers.create(
            image.id,
            ["python", "-m", f"tasks.{request.stage}.main", str(scratch / "request.json")],
            name=name_of(scratch, "stage"),
            labels={SCRATCH_LABEL: str(scratch), PART_LABEL: "stage"},
            environment=environment,
            mounts=mounts,
            user=user_of_stages(),
            working_dir=str(scratch),
            **_bounds(request, image),
        )


def role_of(spec: StageSpec[Any], config: StageConfig) -> str:
    """Which image runs a stage with this configuration."""
    return spec.vllm_image if spec.engine(config) == "vllm" else "train"


def _compiled(image: Image) -> Path:
    """Return the host's directory for code that vLLM compiles, one for each set of packages. It outlives containers."""
    directory = home() / COMPILED / image.labels["tirflow.packages"]
    directory.mkdir(parents=True, exist_ok=True)
    give(directory)
    return directory


def _bounds(request: StageRequest, image: Image) -> dict[str, Any]:
    """Return the limits of a stage's container, its network and its devices."""
    settings = docker_settings()
    gpus = [gpu for gpu in settings.gpus.split(",") if gpu]
    devices = {"device_ids": gpus} if gpus else {"count": -1}
    cuda = image.labels["tirflow.accelerator"] == "cuda"
    network = _network(request)
    return {
        "network_mode": network,
        "hostname": "localhost" if network == "none" else None,  # ranks look up their host's name
        "read_only": True,
        "tmpfs": {"/tmp": "mode=1777,exec"},  # kernels that are compiled at run time are loaded from there
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "init": True,
        "pids_limit": MAX_PROCESSES,
        "mem_limit": settings.memory or None,
        "memswap_limit": settings.memory or None,
        "shm_size": settings.shared_memory,
        "ulimits": [Ulimit(name="core", soft=0, hard=0), *([PINNED] if cuda else [])],
        "device_requests": [DeviceRequest(capabilities=[["gpu"]], **devices)] if cuda else None,
        "devices": [f"{INFINIBAND}:{INFINIBAND}:rwm"] if cuda and INFINIBAND.is_dir() else None,
        "log_config": LOGS,
    }


def _network(request: StageRequest) -> str:
    """Return the network of a stage's container: the host's for ranks on several hosts, else none unless needed."""
    if request.rendezvous is not None:
        return "host"
    return docker_settings().network if needs_network(request) else "none"


def _has_sandbox(request: StageRequest) -> bool:
    """True for a stage that runs code, unless its recipe names a server elsewhere."""
    return find_stage(request.stage).runs_code and not request.config["sandbox"]["address"]


def _start_sandbox(engine: docker.DockerClient, request: StageRequest, directory: Path) -> Container:
    """Start the interpreter of one stage. It may not listen yet."""
    scratch, sockets = Path(request.scratch), directory / SOCKETS
    sockets.mkdir(mode=0o700)
    give(sockets)
    settings = sandbox_settings(SandboxConfig.model_validate(request.config["sandbox"]))
    return engine.containers.run(
        _image(engine, "sandbox").id,
        detach=True,
        name=name_of(scratch, "sandbox"),
        labels={SCRATCH_LABEL: str(scratch), PART_LABEL: "sandbox"},
        restart_policy={"Name": "on-failure"},
        log_config=LOGS,
        **sandbox_options(settings, sockets, user_of_stages()),
    )


def _write_secrets(directory: Path, secrets: dict[str, str]) -> Path:
    """Write a file that only the stage's user can read."""
    path = directory / "secrets.json"
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(json.dumps(secrets))
    give(path)
    return path


def _connect() -> docker.DockerClient:
    """Return the host's engine. Raises Away, a ValueError of one line, if none answers."""
    with asking_engine():
        engine = docker.from_env()
        engine.ping()
    return engine


def _image_name(role: str) -> str:
    return docker_settings().images + role


def _image(engine: docker.DockerClient, role: str) -> Image:
    """Return a role's image. Raises ValueError if there is none."""
    try:
        return engine.images.get(_image_name(role))
    except ImageNotFound:
        raise ValueError(
            f"image {_image_name(role)}: not on this host; make images ROLES={role}, or set TIRFLOW_IMAGES"
        ) from None
