"""Decides the result of an ended program from what its parent observed. Only the traceback comes from the child."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from tasks.shared.sandbox import runner
from tasks.shared.sandbox.confinement import STACK_BYTES
from tasks.shared.sandbox.executions import Execution
from tasks.shared.sandbox.links import Exit
from tasks.shared.sandbox.output import read_output, without_host_paths
from tasks.shared.sandbox.records import (
    SESSION_ENDED,
    ExecutionResult,
    Status,
    sandbox_failure,
    without_output,
)

_SENTENCES = {
    Status.TIMEOUT: "TimeoutError: the program ran longer than {limits.wall_s:g} s",
    Status.OUT_OF_MEMORY: "MemoryError: the program needed more than {limits.memory_mb} MB",
    Status.OUTPUT_CUT: "OSError: the program printed more than {limits.disk_mb} MB",
    Status.ERROR: "RuntimeError: the program ended without a traceback ({detail})",
    Status.FORBIDDEN: "PermissionError: the program made a system call that the sandbox refuses",
}
_RECURSION = "RecursionError: the program's recursion is too deep for its stack ({detail})"
_CRASH = b"Fatal Python error: Segmentation fault"
_MANY_FRAMES = b"\n  ...\n"
_CRASH_BYTES = 16_384
_SMALLEST_CHILD = 16 << 20
_ENDED_BETWEEN = "RuntimeError: the session ended after its last block ({end}): its variables are lost"
_NO_MEMORY_BETWEEN = (
    "MemoryError: memory ran out after the last block and ended the session: its variables are lost"
)


def signal_or_code(code: int) -> str:
    """Describe how a process ended: the name of the signal, or the exit code."""
    if code == runner.EXIT_NO_DESCRIPTORS:
        return "too many open files: none was left for its next block"
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {-code}"


def ended_its_worker(attempts: int, isolation: str) -> ExecutionResult:
    """Return the result of a program under which every worker is lost, while an empty program keeps one."""
    line = f"RuntimeError: the program ended the process that runs it, {attempts} times, the last time alone"
    return without_output(Status.ERROR, line, attempts=attempts, isolation=isolation)


def lost_session(reason: str) -> ExecutionResult:
    """Return the result of a block whose session was lost through no fault of the program."""
    return sandbox_failure(f"{reason}, its variables with it", session_alive=False)


def ended_between_blocks(code: int, isolation: str) -> ExecutionResult:
    """Return the result of a block that did not run because the session's child ended after the block before.

    SIGKILL means a lack of memory here. One sent by somebody else is an outage, which no program is told of.
    """
    line, status = _ENDED_BETWEEN.format(end=signal_or_code(code)), Status.ERROR
    if code == -signal.SIGKILL:
        line, status = _NO_MEMORY_BETWEEN, Status.OUT_OF_MEMORY
    return without_output(status, f"{SESSION_ENDED}\n{line}", session_alive=False, isolation=isolation)


def judge(
    execution: Execution, exit: Exit, report: str, isolation: str, session_alive: bool | None = None
) -> ExecutionResult:
    """Return the result of an ended program or block: status, output and error text.

    `report` is the traceback from the child. `exit.cpu_s` is 0 for a block whose child lives on.
    """
    measured: dict[str, Any] = {
        "seconds": time.monotonic() - execution.started,
        "queue_s": execution.started - execution.enqueued,
        "attempts": execution.attempts,
        "session_alive": session_alive,
        "isolation": isolation,
        "output_chars": execution.limits.output_chars,
    }
    try:
        status, stdout, stderr, error = _outcome(execution, exit, report, session_alive)
    except Exception as problem:  # noqa: BLE001 - the program controls what is read here, and must get an answer
        cause = f"{type(problem).__name__}: {problem}"
        line = f"RuntimeError: what the program left behind cannot be read ({cause})"
        return without_output(Status.ERROR, line, **measured)
    last_line = error.rstrip().rpartition("\n")[2]
    peak_mb = exit.peak_bytes / 2**20
    return ExecutionResult(
        status, stdout, error, last_line, peak_memory_mb=peak_mb, stderr=stderr, **measured
    )


def _outcome(
    execution: Execution, exit: Exit, report: str, session_alive: bool | None
) -> tuple[Status, str, str, str]:
    """Return status, standard output, standard error and error text."""
    limits, code = execution.limits, exit.code
    stdout, cut = read_output(execution.stdout_fd, limits.output_chars)
    stderr, _ = read_output(execution.stderr_fd, limits.output_chars)
    flooded = os.fstat(execution.stdout_fd).st_size >= limits.disk_mb << 20
    status = _status_without_output(execution, exit)
    if (flooded and status in (Status.OK, Status.ERROR)) or (cut and status is Status.OK):
        status = Status.OUTPUT_CUT
    error = ""
    if status is not Status.OK and (status is not Status.OUTPUT_CUT or code != runner.EXIT_OK):
        recursion = code == -signal.SIGSEGV and _overflowed_stack(execution.stderr_fd, exit.peak_bytes)
        sentence = _RECURSION if recursion else _SENTENCES[status]
        error = without_host_paths(report) or sentence.format(limits=limits, detail=signal_or_code(code))
    if session_alive is False:
        error = f"{SESSION_ENDED}\n{error}"
    return status, stdout, stderr, error


def _status_without_output(execution: Execution, exit: Exit) -> Status:
    """Return the status as far as the output does not change it."""
    # of a session `cpu_s` is of all blocks
    ran_out = execution.session is None and exit.cpu_s >= execution.limits.cpu_s
    if execution.timed_out or ran_out or exit.code == -signal.SIGXCPU:
        return Status.TIMEOUT
    if exit.code in (runner.EXIT_FORBIDDEN, -signal.SIGSYS):
        return Status.FORBIDDEN
    if exit.code in (runner.EXIT_MEMORY, -signal.SIGKILL):
        # A program cannot send itself SIGKILL (seccomp), so the kernel ran out of memory.
        return Status.OUT_OF_MEMORY
    return Status.OK if exit.code == runner.EXIT_OK else Status.ERROR


def _overflowed_stack(stderr_fd: int, peak_bytes: int) -> bool:
    """Whether the stack caused a segmentation fault: the crash handler counted many frames, or had no stack to run on.

    A recursion in C has few frames, but its stack has filled memory.
    """
    size = os.fstat(stderr_fd).st_size
    tail = os.pread(stderr_fd, _CRASH_BYTES, max(size - _CRASH_BYTES, 0))
    _, crash, frames = tail.rpartition(_CRASH)
    return not crash or _MANY_FRAMES in frames or peak_bytes >= STACK_BYTES + _SMALLEST_CHILD
