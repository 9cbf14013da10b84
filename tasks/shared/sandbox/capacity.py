"""How many sessions this machine's own bounds leave room for: open files of a process, processes of a cgroup.

Each living session holds two descriptors in the broker and two in its worker, and is a process. Not counted: threads
of programs, and the processes of others in the same cgroup that are started later.
"""

from __future__ import annotations

import resource
from pathlib import Path

from tasks.shared.sandbox.records import SandboxSettings

_FILES_A_SESSION = 2
_FILES_A_PROGRAM = 8
_FILES_SPARE = 64
"""Connections of clients, sockets and standard streams of the server."""
_PROCESSES_SPARE = 32
_CGROUPS = Path("/sys/fs/cgroup")


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one, for this process and those it starts."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def sessions_that_fit(settings: SandboxSettings) -> int:
    """`max_sessions`, or fewer where the limits of open files or of processes would be met first; at least 1."""
    programs = settings.workers * settings.slots
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = [settings.max_sessions]
    if files != resource.RLIM_INFINITY:
        room.append((files - _FILES_SPARE - _FILES_A_PROGRAM * programs) // _FILES_A_SESSION)
    processes = processes_left()
    if processes is not None:
        room.append(processes - programs - 2 * settings.workers - _PROCESSES_SPARE)
    return max(min(room), 1)


def processes_left(cgroups: Path = _CGROUPS) -> int | None:
    """How many more processes the cgroup of this process may have; None where nothing bounds them."""
    left: list[int] = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "pids"):
            continue
        top = cgroups / controllers
        group = top / name.lstrip("/")
        for level in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
            try:
                most = (level / "pids.max").read_text().strip()
                if most != "max":
                    left.append(int(most) - int((level / "pids.current").read_text()))
            except OSError:
                continue  # the root of the tree has none, and a container may hide its own
    return min(left, default=None)
