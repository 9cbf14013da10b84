"""A stage in a process of its own, forked from one that has already imported what stages import.

It is a real process: it has its own descriptors and environment, can be killed and leaves what it leaves.
"""

import os
import signal
import threading
from pathlib import Path

from tasks.shared.contract.stage import StageRequest
from tests.preloaded.client import Fork
from tests.preloaded.environment import interpreter, server

# Processes of a stage with the same imports: ranks and their launcher, and a sampler beside the trainer.
STARTED = (
    "tasks.sft.main",
    "tasks.rl.main",
    "tasks.shared.generation.beside_process",
    "torch.distributed.run",
)


class StageProcess:
    """`python -m tasks.<stage>.main <directory>/request.json`, with what tests use of `subprocess.Popen`."""

    def __init__(self, directory: Path, request: StageRequest) -> None:
        """Start it; stderr is added to `directory`/stderr.txt."""
        directory.mkdir(exist_ok=True)
        path = directory / "request.json"
        path.write_text(request.model_dump_json())
        reading, writing = os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        errors = os.open(directory / "stderr.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._fork = Fork(
            str(server()),
            [f"tasks.{request.stage}.main", str(path)],
            {nothing: 0, writing: 1, errors: 2},
            {**os.environ, "OMP_NUM_THREADS": "1"},
            str(interpreter(STARTED)),
        )
        for fd in (nothing, writing, errors):
            os.close(fd)
        self.stdout = os.fdopen(reading, encoding="utf-8")
        self.pid = self._fork.pid
        self.returncode: int | None = None  # -N after signal N
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        self.returncode = self._fork.wait()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._waiting.join(timeout)
        assert self.returncode is not None, f"it still runs after {timeout} s"
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for the end and return its stdout."""
        with self.stdout as stdout:
            written = stdout.read()
        self.wait(timeout)
        return written, None

    def send_signal(self, number: signal.Signals) -> None:
        self._fork.signal(number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
