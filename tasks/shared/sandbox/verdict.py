"""Judges how a program ended, from what its parent observed; the child's word counts for the traceback only."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace

from tasks.shared.sandbox import runner
from tasks.shared.sandbox.confinement import STACK_BYTES
from tasks.shared.sandbox.output import read_output, without_host_paths
from tasks.shared.sandbox.records import SESSION_ENDED, ExecutionResult, Limits, Status, sandbox_failure

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
_ENDED_BETWEEN = "RuntimeError: the session ended after its last block ({how}): its variables are lost"
_SHORT_BETWEEN = (
    "MemoryError: memory ran out after the last block and ended the session: its variables are lost"
)


@dataclass(frozen=True, slots=True)
class Ending:
    """What was observed of one program or block."""

    code: int
    """Exit code as the runner defines them, or the negative number of the signal that ended it."""
    report: str
    """The traceback, in the child's own words."""
    timed_out: bool
    """Killed by the broker at its wall limit."""
    started: float
    """time.monotonic() when the child got it."""
    queue_s: float
    attempts: int
    stdout_fd: int
    stderr_fd: int
    cpu_s: float = 0.0
    """Processor time of the child; 0 for a block of a session, whose child lives on."""
    peak_bytes: int = 0
    session_alive: bool | None = None


def judge_status(ending: Ending, limits: Limits) -> Status:
    """The status without regard to output."""
    code = ending.code
    if ending.timed_out or code == -signal.SIGXCPU:
        return Status.TIMEOUT
    if ending.session_alive is None and ending.cpu_s >= limits.cpu_s:
        return Status.TIMEOUT
    if code == -signal.SIGSYS:
        return Status.FORBIDDEN
    if code in (runner.EXIT_MEMORY, -signal.SIGKILL):
        # A program cannot send itself SIGKILL (seccomp), so this was the kernel, out of memory.
        return Status.OUT_OF_MEMORY
    if code == runner.EXIT_FORBIDDEN:
        return Status.FORBIDDEN
    return Status.OK if code == runner.EXIT_OK else Status.ERROR


def signal_or_code(code: int) -> str:
    """How a process ended, in words: the name of the signal, or the exit code."""
    if code == runner.EXIT_NO_DESCRIPTORS:
        return "too many open files: none was left for its next block"
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {-code}"


def is_killed_from_outside(code: int, cpu_s: float, limits: Limits) -> bool:
    """Whether it was SIGKILL, which a program cannot send itself, and the processor limit does not explain it.

    What is left then is a lack of memory, where one was seen, or somebody else.
    """
    return code == -signal.SIGKILL and cpu_s < limits.cpu_s


def ended_its_worker(attempts: int, isolation: str) -> ExecutionResult:
    """What a program is answered under which every worker is lost, where others can be kept."""
    line = f"RuntimeError: the program ended the process that runs it, {attempts} times, the last time alone"
    return ExecutionResult(Status.ERROR, "", line, line, 0.0, 0.0, attempts=attempts, isolation=isolation)


def lost_session(reason: str) -> ExecutionResult:
    """What a block is answered whose session was lost by no fault of the program."""
    return replace(sandbox_failure(f"{reason}, its variables with it"), session_alive=False)


def unreadable(error: Exception, ending: Ending, isolation: str) -> ExecutionResult:
    """The result of a program that left something which cannot be judged."""
    line = f"RuntimeError: what the program left behind cannot be read ({type(error).__name__}: {error})"
    seconds = time.monotonic() - ending.started
    alive, attempts = ending.session_alive, ending.attempts
    return ExecutionResult(
        Status.ERROR, "", line, line, seconds, 0.0, "", ending.queue_s, attempts, alive, isolation
    )


def overflowed_stack(ending: Ending) -> bool:
    """Whether a segmentation fault came of the stack: the handler counted frames, or had no stack to run on.

    A recursion in C has few frames, and has filled the stack with something.
    """
    size = os.fstat(ending.stderr_fd).st_size
    tail = os.pread(ending.stderr_fd, _CRASH_BYTES, max(size - _CRASH_BYTES, 0))
    _, told, frames = tail.rpartition(_CRASH)
    filled = ending.peak_bytes >= STACK_BYTES + _SMALLEST_CHILD
    return not told or _MANY_FRAMES in frames or filled


def ended_between_blocks(code: int, isolation: str) -> ExecutionResult:
    """What a block is answered that was not run, for the session's own child had ended after the block before.

    SIGKILL stands for a lack of memory: one by somebody else is an outage, and never told to a program.
    """
    line, status = _ENDED_BETWEEN.format(how=signal_or_code(code)), Status.ERROR
    if code == -signal.SIGKILL:
        line, status = _SHORT_BETWEEN, Status.OUT_OF_MEMORY
    error = f"{SESSION_ENDED}\n{line}"
    return ExecutionResult(status, "", error, line, 0.0, 0.0, session_alive=False, isolation=isolation)


def judge(ending: Ending, limits: Limits, isolation: str) -> ExecutionResult:
    """The result of an ended program: status, output, error text."""
    seconds = time.monotonic() - ending.started
    stdout, cut = read_output(ending.stdout_fd, limits.output_chars)
    stderr, _ = read_output(ending.stderr_fd, limits.output_chars)
    flooded = os.fstat(ending.stdout_fd).st_size >= limits.disk_mb << 20
    status = judge_status(ending, limits)
    if (flooded and status in (Status.OK, Status.ERROR)) or (cut and status is Status.OK):
        status = Status.OUTPUT_CUT
    code = ending.code
    error = ""
    if status is not Status.OK and (status is not Status.OUTPUT_CUT or code != runner.EXIT_OK):
        recursion = code == -signal.SIGSEGV and overflowed_stack(ending)
        sentence = _RECURSION if recursion else _SENTENCES[status]
        sentence = sentence.format(limits=limits, detail=signal_or_code(code))
        error = without_host_paths(ending.report) or sentence
    if ending.session_alive is False:
        error = f"{SESSION_ENDED}\n{error}"
    error_line = error.rstrip().rpartition("\n")[2]
    return ExecutionResult(
        status,
        stdout,
        error,
        error_line,
        seconds,
        ending.peak_bytes / 2**20,
        stderr,
        ending.queue_s,
        ending.attempts,
        ending.session_alive,
        isolation,
        limits.output_chars,
    )
