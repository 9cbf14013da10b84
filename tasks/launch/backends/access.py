"""What a stage in a container may reach of its host: which directories and files, whether a network, as which user."""

import os
from pathlib import Path

from docker.types import Mount

from tasks.recipes import stage_of
from tasks.shared.artifacts.locations import is_elsewhere
from tasks.shared.contract.environment import home
from tasks.shared.contract.stage import StageRequest

ORDINARY_USER = 1000  # that of the images, where the launcher is root


def mounts_of(request: StageRequest) -> list[Mount]:
    """Its scratch directory, the store (or the cache of one elsewhere) and, read-only, the files it was given."""
    mounts = [_mount(path) for path in _writable(request)]
    return mounts + [_mount(Path(path), read_only=True) for path in request.files if Path(path).exists()]


def needs_network(request: StageRequest) -> bool:
    """True for a stage that a recipe sends to a hub, an endpoint, a tracking server, a pool, or a store elsewhere."""
    spec, config = stage_of(request)
    used = is_elsewhere(request.store) or any(sinks for _, sinks in config.each("sinks"))
    return used or any(pool.addresses for _, pool in config.each("pool")) or spec.network(config)


def user_of_stages() -> str:
    """uid:gid that stages run as: the launcher's own, so that what they write is its; never root."""
    if os.geteuid() == 0:
        return f"{ORDINARY_USER}:{ORDINARY_USER}"
    return f"{os.geteuid()}:{os.getegid()}"


def hand_over(request: StageRequest) -> None:
    """Make what a stage writes to, and only that, the stages' user's. For a launcher that is root."""
    for directory in _writable(request):
        give(directory)
        for path in directory.iterdir() if directory == _store(request) else directory.rglob("*"):
            give(path)


def give(path: Path) -> None:
    """Change the owner to the user of stages; does nothing where that is this process's own."""
    if os.geteuid() == 0:
        os.chown(path, ORDINARY_USER, ORDINARY_USER, follow_symlinks=False)


def _writable(request: StageRequest) -> list[Path]:
    """The directories that a stage writes to, made if they are not there."""
    paths = [Path(request.scratch), _store(request)]
    if request.meeting is not None:
        paths.append(Path(request.meeting.shared))
    if any("tensorboard" in sinks for _, sinks in stage_of(request)[1].each("sinks")):
        paths.append(home() / "tensorboard")
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
    return paths


def _store(request: StageRequest) -> Path:
    """The store's directory, or that of the copies of one elsewhere."""
    return home() / "cache" if is_elsewhere(request.store) else Path(request.store.removeprefix("file://"))


def _mount(path: Path, read_only: bool = False) -> Mount:
    """A path of the host, in the container under the same name, so that requests mean the same in both."""
    return Mount(str(path), str(path), type="bind", read_only=read_only)
