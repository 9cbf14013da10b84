"""A subprocess under a guard (`guard.py`), which ends it and all its children when this process ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

GRACE_S = 10.0
MAX_LINE_CHARS = 1 << 20


@dataclass(frozen=True, slots=True)
class Exit:
    """How a stage ended."""

    code: int  # 128 + n if signal n ended it
    # as the backend saw it; lost: the stage no longer exists, away: the backend does not answer
    cause: Literal["", "out_of_memory", "lost", "away"] = ""


class RunningProcess:
    """A subprocess under a guard and the lifeline that keeps it alive."""

    def __init__(self, process: subprocess.Popen[str], lifeline: int) -> None:
        self._process = process
        self._lifeline: int | None = lifeline

    def lines(self) -> Iterator[str]:
        """Yield its stdout line by line. A line longer than 1 Mi characters comes in pieces."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(MAX_LINE_CHARS):
            yield line.rstrip("\n")

    def ended(self) -> bool:
        """Whether it has ended."""
        try:
            self._reap(0)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait(self) -> Exit:
        """Wait for its end, and return the exit."""
        code = self._reap()
        return Exit(128 - code if code < 0 else code)

    def stop(self) -> None:
        """Close the lifeline, so that the guard ends the stage. A guard that does not end is killed with its group."""
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is None:
            return
        os.close(lifeline)
        try:
            self._reap(GRACE_S + 5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._reap()

    def _reap(self, timeout_s: float | None = None) -> int:
        """Wait for the guard. If it was killed itself, end what it left: the group. Raises TimeoutExpired."""
        if self._process.returncode is None and self._process.wait(timeout_s) < 0:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.returncode


def start_guarded(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    grace_s: float = GRACE_S,
    keep_open: tuple[int, ...] = (),
) -> RunningProcess:
    """Start a command under a guard, which ends it and all its children when this process ends in any way.

    The command inherits the descriptors in `keep_open`.
    """
    reader, writer = os.pipe()
    guard = ["-m", "tasks.shared.contract.guard", str(reader), str(grace_s), "--"]
    process = subprocess.Popen(
        [sys.executable, *guard, *command],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=dict(env),
        cwd=cwd,
        pass_fds=(reader, *keep_open),
        start_new_session=True,
        text=True,
        errors="replace",
    )
    os.close(reader)
    return RunningProcess(process, writer)
