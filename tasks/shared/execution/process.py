"""The process backend: a stage as a subprocess in its own session, under a guard that ends it with its launcher."""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tasks.shared.environment import stage_environment

GRACE_S = 10.0
MAX_LINE_CHARS = 1 << 20
# Versions that a stage's numbers can depend on.
LIBRARIES = (
    "datasets",
    "deepspeed",
    "math-verify",
    "numpy",
    "pandas",
    "pyarrow",
    "sympy",
    "tokenizers",
    "torch",
    "transformers",
    "vllm",
)


class RunningProcess:
    """A stage subprocess and the lifeline that keeps it alive."""

    def __init__(self, process: subprocess.Popen[str], lifeline: int) -> None:
        self._process = process
        self._lifeline: int | None = lifeline

    def lines(self) -> Iterator[str]:
        """Its stdout line by line; a line longer than 1 Mi characters comes in pieces."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(MAX_LINE_CHARS):
            yield line.rstrip("\n")

    def wait(self) -> int:
        """Its exit code, 128 + n if signal n ended it."""
        code = self._process.wait()
        return 128 - code if code < 0 else code

    def stop(self) -> None:
        """Close the lifeline: the guard ends the stage. A guard that does not finish is killed with the group."""
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is None:
            return
        os.close(lifeline)
        try:
            self._process.wait(GRACE_S + 5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class ProcessBackend:
    """Stages as subprocesses of this one, in this Python environment."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        """`grace_s`: how long a stage may take to end after SIGTERM."""
        self._grace_s = grace_s

    def identity(self) -> str:
        """Python and library versions."""
        versions = [f"python {platform.python_version()} {platform.machine()}"]
        for name in LIBRARIES:
            try:
                versions.append(f"{name} {metadata.version(name)}")
            except metadata.PackageNotFoundError:
                versions.append(f"{name} -")
        return "; ".join(versions)

    def command(self, stage: str, request_path: Path) -> list[str]:
        """What runs under the guard."""
        return [sys.executable, "-m", f"tasks.{stage}.main", str(request_path)]

    def start(self, stage: str, request_path: Path, log_path: Path, lock: int) -> RunningProcess:
        """Start the stage; see `Backend.start`."""
        reader, writer = os.pipe()
        guard = ["-m", "tasks.shared.execution.guard", str(reader), str(self._grace_s), "--"]
        command = [sys.executable, *guard, *self.command(stage, request_path)]
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=stage_environment(stage),
                cwd=request_path.parent,
                pass_fds=(reader, lock),
                start_new_session=True,
                text=True,
                errors="replace",
            )
        os.close(reader)
        return RunningProcess(process, writer)
