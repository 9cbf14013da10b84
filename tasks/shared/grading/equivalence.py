"""Compares expressions in a worker process with bounds on time and memory.

The worker (`worker.py`) starts at the first comparison and ends with this process, when its input closes. It limits its
own processor time, so a runaway comparison ends the worker, not the caller; the wall clock is a second bound.
"""

import functools
import json
import os
import select
import subprocess
import sys
import threading
from enum import StrEnum
from pathlib import Path

MAX_CHARS = 1000  # of each side; longer answers are not compared
WALL_S = 30.0
ROOT = Path(__file__).resolve().parents[3]  # the worker runs from any directory and needs no installation


class Verdict(StrEnum):
    """What a comparison found."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNDECIDED = "undecided"  # out of time or memory, too long, or the computer algebra system failed


class Equivalence:
    """One worker and a cache of its verdicts. Comparisons are serialised, so any thread may call it."""

    def __init__(self, cpu_s: int = 2, memory_mb: int = 1024) -> None:
        self._limits = (str(cpu_s), str(memory_mb))
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._known: dict[tuple[str, str], Verdict] = {}

    def compare(self, predicted: str, reference: str) -> Verdict:
        """Whether `predicted` is equivalent to `reference`. No text that a model writes makes it raise."""
        if len(predicted) > MAX_CHARS or len(reference) > MAX_CHARS:
            return Verdict.UNDECIDED
        key = (predicted, reference)
        with self._lock:
            if key not in self._known:
                if len(self._known) >= 50_000:
                    self._known.clear()
                self._known[key] = self._ask(predicted, reference)
            return self._known[key]

    def _ask(self, predicted: str, reference: str) -> Verdict:
        process = self._running()
        assert process.stdin is not None
        line = json.dumps({"predicted": predicted, "reference": reference}) + "\n"
        try:
            process.stdin.write(line.encode())
            process.stdin.flush()
            reply = self._read_line(process)
        except BrokenPipeError:
            reply = None
        if reply is None:
            self._stop()
            return Verdict.UNDECIDED
        return Verdict(json.loads(reply)["verdict"])

    def _running(self) -> subprocess.Popen[bytes]:
        # After a fork the pipes belong to the parent: a child starts a worker of its own.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            command = [sys.executable, "-m", "tasks.shared.grading.worker", *self._limits]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._owner = os.getpid()
            # The start takes about a second of imports, which must not count against the first comparison.
            if self._read_line(self._process) is None:
                raise RuntimeError(
                    "the grading worker did not start; see its message above, and check math-verify"
                )
        return self._process

    def _read_line(self, process: subprocess.Popen[bytes]) -> bytes | None:
        """The worker's next line; None if it ended or exceeded the wall-clock bound."""
        assert process.stdout is not None
        answer = select.poll()  # unlike `select`, for descriptors over 1023 too
        answer.register(process.stdout, select.POLLIN)
        line = process.stdout.readline() if answer.poll(WALL_S * 1000) else b""
        return line or None

    def _stop(self) -> None:
        if self._process is None or self._owner != os.getpid():
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process = None


@functools.cache
def shared_equivalence() -> Equivalence:
    """The process-wide worker, made on first use."""
    return Equivalence()
