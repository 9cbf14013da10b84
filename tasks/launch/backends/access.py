"""What a stage in a container may access on its host: directories, files, a network, and its user."""

import os
from pathlib import Path

from docker.types import Mount

from tasks.recipes import stage_of
from tasks.shared.artifacts.locations import is_elsewhere
from tasks.shared.contract.environment import home
from tasks.shared.contract.stage import StageRequest

ORDINARY_USER = 1000  # the user of the images, if the launcher is root


def mounts_of(request: StageRequest) -> list[Mount]:
    """Return the mounts of its scratch directory, of the store (or its cache), and, read-only, of its files."""
    mounts = [_mount(path) for path in _writable(request)]
    return mounts + [_mount(Path(path), read_only=True) for path in request.files if Path(path).exists()]


def needs_network(request: StageRequest) -> bool:
    """Whether the recipe makes the stage use a hub, an endpoint, a tracking server, a pool or an object store."""
    spec, config = stage_of(request)
    used = is_elsewhere(request.store) or any(sinks for _, sinks in config.each("sinks"))
    return used or any(pool.addresses for _, pool in config.each("pool")) or spec.network(config)


def user_of_stages() -> str:
    """Return uid:gid of stages: the launcher's own, so that it owns what they write, but never root."""
    if os.geteuid() == 0:
        return f"{ORDINARY_USER}:{ORDINARY_USER}"
    return f"{os.geteuid()}:{os.getegid()}"


def hand_over(request: StageRequest) -> None:
    """Give the stages' user what a stage writes to, and nothing else. For a launcher that is root."""
    for directory in _writable(request):
        give(directory)
        for path in directory.iterdir() if directory == _store(request) else directory.rglob("*"):
            give(path)


def give(path: Path) -> None:
    """Change the owner to the user of stages, if this process is root."""
    if os.geteuid() == 0:
        os.chown(path, ORDINARY_USER, ORDINARY_USER, follow_symlinks=False)


def _writable(request: StageRequest) -> list[Path]:
    """Return the directories that a stage writes to, and make them if needed."""
    paths = [Path(request.scratch), _store(request)]
    if request.rendezvous is not None:
        paths.append(Path(request.rendezvous.shared))
    if any("tensorboard" in sinks for _, sinks in stage_of(request)[1].each("sinks")):
        paths.append(home() / "tensorboard")
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
    return paths


def _store(request: StageRequest) -> Path:
    """Return the store's directory, or that of the copies of an object store."""
    return home() / "cache" if is_elsewhere(request.store) else Path(request.store.removeprefix("file://"))


def _mount(path: Path, read_only: bool = False) -> Mount:
    """Mount a path of the host under the same name, so that requests mean the same in the container."""
    return Mount(str(path), str(path), type="bind", read_only=read_only)
