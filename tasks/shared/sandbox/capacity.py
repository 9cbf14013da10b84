"""How many sessions, and which limits, the bounds of this machine allow (open files, processes of a cgroup).

Each living session is a process, and holds two descriptors in the broker and two in its worker. Threads of programs and
later processes of others in the same cgroup are not counted.
"""

from __future__ import annotations

import math
import resource

from tasks.shared.sandbox.cgroups import processes_left
from tasks.shared.sandbox.confinement import MEMORY_RESERVE
from tasks.shared.sandbox.records import Limits, SandboxSettings

_FILES_A_SESSION = 2
_FILES_A_PROGRAM = 8
_FILES_SPARE = 64
"""For connections of clients, sockets and standard streams of the server."""
_PROCESSES_SPARE = 32


def sessions_that_fit(settings: SandboxSettings) -> int:
    """Return `max_sessions`, or fewer if the limits of open files or of processes allow fewer; at least 1."""
    programs = settings.workers * settings.slots
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = [settings.max_sessions]
    if files != resource.RLIM_INFINITY:
        room.append((files - _FILES_SPARE - _FILES_A_PROGRAM * programs) // _FILES_A_SESSION)
    processes = processes_left()
    if processes is not None:
        room.append(processes - programs - 2 * settings.workers - _PROCESSES_SPARE)
    return max(min(room), 1)


def above_hard_limit(limits: Limits, warm_mb: int) -> str:
    """Describe the first limit that no child can be given, with the remedy; "" if all can."""
    memory = (limits.memory_mb + warm_mb << 20) + MEMORY_RESERVE
    required = (
        (f"cpu_s = {limits.cpu_s:g}", resource.RLIMIT_CPU, math.ceil(limits.cpu_s) + 1, "seconds", "t"),
        (f"open_files = {limits.open_files}", resource.RLIMIT_NOFILE, limits.open_files, "files", "n"),
        (f"processes = {limits.processes}", resource.RLIMIT_NPROC, limits.processes, "processes", "u"),
        (f"disk_mb = {limits.disk_mb}", resource.RLIMIT_FSIZE, limits.disk_mb << 20, "bytes in a file", "f"),
        (f"memory_mb = {limits.memory_mb}", resource.RLIMIT_DATA, memory, "bytes of data", "d"),
        (f"memory_mb = {limits.memory_mb}", resource.RLIMIT_AS, memory, "bytes of addresses", "v"),
    )
    for text, kind, least, unit, letter in required:
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY and least > hard:
            return (
                f"sandbox limit {text}: the hard limit of the server is {hard} {unit}, {least} are needed; "
                f"ask for less, or start it with more (ulimit -H{letter})"
            )
    return ""
