"""A process between the launcher and a stage, which ensures that nothing of the stage outlives its launcher.

    python -m tasks.shared.contract.guard LIFELINE_FD GRACE_S -- command ...

The launcher holds the other end of the lifeline pipe. When it closes it or dies, the stage's process group gets
SIGTERM, and SIGKILL after the grace period. As a subreaper the guard then kills all remaining processes of the stage,
in other sessions too. It exits with the stage's code, 128 + n for signal n. Linux only, standard library only.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run the command, and watch it and the lifeline. Returns the exit code."""
    lifeline, grace_s, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[4:]
    # A signal to the whole group is meant for the stage. The guard stays to clean up.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    stage = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_prepare_stage)
    ended = os.pidfd_open(stage.pid)
    readable, _, _ = select.select([ended, lifeline], [], [])
    if ended not in readable:
        os.killpg(os.getpgrp(), signal.SIGTERM)
        select.select([ended], [], [], grace_s)
        stage.kill()
    code = stage.wait()
    _kill_descendants()
    return 128 - code if code < 0 else code


def _prepare_stage() -> None:
    """Restore the ignored signals between fork and exec, and die if the guard is killed."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_descendants() -> None:
    """Kill all processes below this one. Orphans become its children, so this repeats until none is left."""
    while children := _children(os.getpid()):
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except (ProcessLookupError, ChildProcessError):
                continue
        time.sleep(0.01)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in path.read_text().split()]
    return found


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed: this needs Linux")


if __name__ == "__main__":
    sys.exit(main())
