"""The warm interpreter: prepares the libraries, freezes its memory, and forks workers. It never sees a program.

The broker starts it as `python -m tasks.shared.sandbox.zygote FD` with an empty environment. The first message on the
control socket FD has the settings (JSON). The answer (JSON) is `ready`, or `failed` with the reason. Each later message
asks for a worker and carries its control socket.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import signal
import socket
import struct
import sys

from tasks.shared.sandbox import compartments, confinement, kernel, libraries, runner, seccomp, worker
from tasks.shared.sandbox.records import SandboxSettings, SandboxUnavailable

_HUGE_PAGE = 2 << 20
WORKER_REQUEST = struct.Struct("=I")


def compact_memory() -> None:
    """Gather the warm heap into huge pages, so that a fork copies a few page-table entries instead of thousands.

    This saves a third of the cost of a fork and its exit. If the kernel declines, nothing changes.
    """
    with open("/proc/self/maps", encoding="utf-8") as maps:
        areas = [line.split() for line in maps]
    for area in areas:
        if area[1] != "rw-p" or (len(area) > 5 and area[5] != "[heap]"):
            continue
        start, end = (int(address, 16) for address in area[0].split("-"))
        first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
        for page in range(first, end - _HUGE_PAGE + 1, _HUGE_PAGE):
            kernel.collapse_pages(page, _HUGE_PAGE)


def prepare(settings: SandboxSettings) -> confinement.WorkerSettings:
    """Warm up, and prepare the settings of the workers. Raises SandboxUnavailable."""
    isolation = confinement.probe(settings.isolation, settings.allow_unsafe)
    readable = libraries.prepare_libraries(settings.preload)
    runner.standard_streams()
    sys.argv[:] = ["main.py"]
    faulthandler.enable(2, all_threads=False)  # a program that crashes says where on its standard error
    with open("/proc/self/status", encoding="ascii", errors="replace") as handle:
        warm_bytes = next(int(line.split()[1]) << 10 for line in handle if line.startswith("VmData:"))
    template = seccomp.build_filter(confinement.PID_PLACEHOLDER)
    first_uid = compartments.reserve_uids(settings.workers) if isolation.as_root else 0
    prepared = confinement.WorkerSettings(isolation, settings, readable, warm_bytes, template, first_uid)
    gc.collect()
    gc.freeze()
    compact_memory()
    return prepared


def main() -> None:
    """Serve the broker until it goes away."""
    control = socket.socket(fileno=int(sys.argv[1]))
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        prepared = prepare(SandboxSettings.from_json(control.recv(65536)))
    except (SandboxUnavailable, OSError) as error:
        control.send(json.dumps({"failed": str(error)}).encode())
        return
    ready = {"ready": prepared.isolation.mode, "warm_mb": prepared.warm_bytes >> 20}
    control.send(json.dumps(ready).encode())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps workers
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, WORKER_REQUEST.size, 1)
        if not message:
            break
        if os.fork() == 0:
            control.close()
            (index,) = WORKER_REQUEST.unpack(message)
            worker.main(prepared, index, socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, 0)  # since SIGCHLD is ignored, this returns when the last worker has ended


if __name__ == "__main__":
    main()
