"""A stage in a process of its own, forked from one that has imported what stages import: a start takes no seconds.

It is a real process: it has its own descriptors and environment, it is killed, and what it leaves behind stays behind.
"""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from tasks.recipes import find_stage
from tasks.shared.contract.environment import tell_deepspeed_of_cpu
from tasks.shared.contract.stage import StageRequest, stage_main

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [f"tasks.{stage}.main" for stage in ("prepare", "synthesize", "sft", "rl", "evaluate", "report")]
    + ["tasks.synthesize.teachers.endpoint", __name__]
)


class StageProcess:
    """`python -m tasks.<stage>.main <directory>/request.json`, with what tests use of `subprocess.Popen`."""

    def __init__(self, directory: Path, request: StageRequest) -> None:
        """Start it; stderr is added to `directory`/stderr.txt."""
        directory.mkdir(exist_ok=True)
        path = directory / "request.json"
        path.write_text(request.model_dump_json())
        reading, writing = FORKS.Pipe(duplex=False)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        arguments = (request.stage, path, writing, directory / "stderr.txt", environment)
        self._process = FORKS.Process(target=_run, args=arguments)
        self._process.start()
        writing.close()
        self.stdout = os.fdopen(os.dup(reading.fileno()), encoding="utf-8")
        reading.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, -N after signal N."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"it still runs after {timeout} s"
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All of its stdout, once it has ended."""
        with self.stdout as stdout:
            written = stdout.read()
        self.wait(timeout)
        return written, None

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _run(stage: str, path: Path, stdout: Connection, stderr: Path, environment: Mapping[str, str]) -> None:
    import torch

    os.dup2(stdout.fileno(), 1)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        tell_deepspeed_of_cpu()  # imported here for every stage, it would warn on stdout in those that do not train
    sys.argv = [f"tasks.{stage}.main", str(path)]
    raise SystemExit(stage_main(find_stage(stage), importlib.import_module(sys.argv[0]).run))
