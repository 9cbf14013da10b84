"""The warm interpreter: prepares the libraries, freezes, and forks workers from it.

Started by the broker as `python -m tasks.shared.sandbox.zygote --control FD` with an empty environment. It
never sees a program. Messages on its control socket: first the settings (JSON); it answers `ready`
(JSON) or `failed` with the reason; then each message asks for a worker and carries its control socket.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import signal
import socket
import struct
import sys

from tasks.shared.sandbox import compartments, confinement, kernel, libraries, runner, worker
from tasks.shared.sandbox.records import SandboxUnavailable

_HUGE_PAGE = 2 << 20
WORKER_REQUEST = struct.Struct("=I")


def compact_memory() -> None:
    """Gather the warm heap into huge pages: a fork then copies a few entries in place of thousands.

    Cuts a third off the cost of a fork and its exit. Where the kernel declines, nothing changes.
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


def prepare(settings: dict[str, object]) -> worker.WorkerSettings:
    """Warm up and settle what the workers need. Raises SandboxUnavailable."""
    isolation = confinement.probe(str(settings["isolation"]), bool(settings["allow_unsafe"]))
    readable = libraries.prepare_libraries(tuple(settings["preload"]))  # type: ignore[arg-type]
    runner.standard_streams()
    sys.argv[:] = ["main.py"]
    faulthandler.enable(2, all_threads=False)  # a program that crashes says where, on its standard error
    with open("/proc/self/status", encoding="ascii", errors="replace") as handle:
        warm_bytes = next(int(line.split()[1]) << 10 for line in handle if line.startswith("VmData:"))
    template = confinement.filter_template(isolation)
    first_uid = compartments.reserve_uids(int(str(settings["workers"]))) if isolation.as_root else 0
    slots, disk_mb = int(str(settings["slots"])), int(str(settings["disk_mb"]))
    plan = worker.WorkerSettings(isolation, readable, slots, disk_mb, warm_bytes, template, first_uid)
    gc.collect()
    gc.freeze()
    compact_memory()
    return plan


def main() -> None:
    """Serve the broker until it goes away."""
    parser = argparse.ArgumentParser(description="warm interpreter of the sandbox; started by its broker")
    parser.add_argument("--control", type=int, required=True)
    control = socket.socket(fileno=parser.parse_args().control)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    settings = json.loads(control.recv(65536))
    try:
        plan = prepare(settings)
    except (SandboxUnavailable, OSError) as error:
        control.send(json.dumps({"failed": str(error)}).encode())
        return
    control.send(json.dumps({"ready": plan.isolation.mode, "warm_mb": plan.warm_bytes >> 20}).encode())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers are reaped by the kernel
    scratch = list(settings["scratch_dirs"])
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, WORKER_REQUEST.size, 1)
        if not message:
            break
        (index,) = WORKER_REQUEST.unpack(message)
        share = tuple(scratch[index :: int(settings["workers"])])
        if os.fork() == 0:
            control.close()
            worker.main(plan, index, share, socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])
    try:
        os.waitpid(-1, 0)  # with SIGCHLD ignored: returns when the last worker has ended
    except ChildProcessError:
        return


if __name__ == "__main__":
    main()
