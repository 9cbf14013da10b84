"""The references that the sandbox is measured against: a bare fork, and `python -c` with and without bwrap.

The floor is a warm interpreter (same libraries, used once, garbage collector frozen) that forks a child. The child runs
the program with its output in a pipe and exits; the parent reads the pipe and waits. There is no isolation at all.
"""

import contextlib
import gc
import io
import os
import select
import subprocess
import sys
import time

# puts bubblewrap around a command
BWRAP = (
    "bwrap --unshare-all --die-with-parent --new-session --ro-bind / / --tmpfs /tmp --proc /proc --dev /dev"
)


def warm() -> None:
    """Import what the sandbox preloads and use it once."""
    import numpy
    import sympy

    x = sympy.symbols("x")
    str(sympy.solve(x**2 - 5 * x + 6, x))
    numpy.linalg.solve(numpy.eye(2), numpy.ones(2))
    gc.collect()
    gc.freeze()


def _start(code: str) -> tuple[int, int]:
    """Fork a child that runs `code`; returns its pid and the read end of its output."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        captured = io.StringIO()
        with contextlib.redirect_stdout(captured):
            exec(compile(code, "main.py", "exec"), {"__name__": "__main__"})
        os.write(write_end, captured.getvalue().encode())
        os._exit(0)
    os.close(write_end)
    return pid, read_end


def _finish(pid: int, read_end: int) -> str:
    output = os.read(read_end, 65536)
    os.waitpid(pid, 0)
    os.close(read_end)
    return output.decode()


def fork_once(code: str) -> str:
    """The floor, one program."""
    return _finish(*_start(code))


def fork_many(code: str, num_programs: int, concurrency: int) -> float:
    """The floor's programs per second with `concurrency` children alive.

    One fork of this warm process for each processor forks them.
    """
    num_forkers = os.cpu_count() or 1
    started = time.perf_counter()
    forkers: list[int] = []
    for _ in range(num_forkers):
        pid = os.fork()
        if pid == 0:
            _keep_in_flight(code, num_programs // num_forkers, max(1, concurrency // num_forkers))
            os._exit(0)
        forkers.append(pid)
    for pid in forkers:
        os.waitpid(pid, 0)
    return num_programs / (time.perf_counter() - started)


def _keep_in_flight(code: str, num_programs: int, concurrency: int) -> None:
    running: dict[int, int] = {}
    poll = select.poll()
    left = num_programs
    while left or running:
        while left and len(running) < concurrency:
            pid, read_end = _start(code)
            running[read_end] = pid
            poll.register(read_end, select.POLLIN | select.POLLHUP)
            left -= 1
        for read_end, _ in poll.poll():
            poll.unregister(read_end)
            _finish(running.pop(read_end), read_end)


def subprocess_once(code: str, prefix: str = "") -> str:
    """`python -c` in a fresh process, perhaps under bubblewrap."""
    command = [*prefix.split(), sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
