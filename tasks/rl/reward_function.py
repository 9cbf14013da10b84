"""`rl.reward`: a user's function that scores answers, in its own process.

    def reward(responses: list[dict], **reward_arguments) -> list[float]

It is called once a step with all responses of a rank: dictionaries with `problem_id`, `problem`, `answer` (the
reference), `response`, `own_words` (without programs and outputs), `correct` (by the built-in grader), `finish`,
`tokens` and `calls` (`code`, `status`, `output`). `llm_judge.py` is an example. The process has limits on memory and
time, and gets only the secret that `rl.reward_key_variable` names. Its failure cannot crash the trainer.
"""

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.rl import reward_process
from tasks.rl.config import RlConfig
from tasks.shared.contract.environment import reward_environment
from tasks.shared.contract.stage import TrainingStopped

Response = dict[str, Any]
START_SECONDS = 120.0  # for the imports of the module
ENDED = "ended by itself; see its message above, and rl.reward_memory_mb"


class RewardFunction:
    """The process of a reward function. Use as a context manager."""

    def __init__(self, config: RlConfig) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> "RewardFunction":
        """ValueError, one line, if the function cannot be loaded."""
        config = self._config
        command = [sys.executable, "-P", str(Path(reward_process.__file__)), config.reward]
        self._process = subprocess.Popen(
            [*command, str(config.reward_memory_mb), json.dumps(config.reward_arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=reward_environment(config.reward_key_variable),
            start_new_session=True,
        )
        try:
            reply = self._read_line(START_SECONDS)
        except TrainingStopped as stopped:
            self.close()
            raise ValueError(str(stopped)) from None
        if "error" in reply:
            self.close()
            raise ValueError(
                f"rl.reward = '{config.reward}' cannot be loaded: {reply['error']}; give a function of an installed "
                "module or of a file that takes (responses, **rl.reward_arguments)"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and all that it started."""
        if self._process is not None:
            with self._process as process:  # closes its pipes and waits for its end
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            self._process = None

    def __call__(self, responses: Sequence[Response]) -> list[float]:
        """Score each response. TrainingStopped, one line, if the function fails, is slow or returns no numbers.

        A repeated run resumes from the last saved step.
        """
        if not responses:
            return []
        request = {"responses": list(responses), "arguments": self._config.reward_arguments}
        reply = self._ask(json.dumps(request).encode() + b"\n")
        if "error" in reply:
            raise self._stopped(f"failed: {reply['error']}")
        values: list[float] = reply["rewards"]
        if len(values) != len(responses) or not all(map(math.isfinite, values)):
            raise self._stopped(
                f"gave {len(values)} numbers, not all of them finite, for {len(responses)} responses"
            )
        return values

    def _ask(self, line: bytes) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line)  # the process reads the whole line before it computes
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._stopped(ENDED) from None
        return self._read_line(self._config.reward_seconds)

    def _read_line(self, seconds: float) -> dict[str, Any]:
        """The next line of the process."""
        assert self._process is not None and self._process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._stopped(f"took longer than {seconds:g} s")
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise self._stopped(ENDED)
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return dict(json.loads(line))

    def _stopped(self, why: str) -> TrainingStopped:
        return TrainingStopped(f"rl.reward = '{self._config.reward}' {why}; correct it and run again")


def source_of(reward: str) -> Path | None:
    """The file that defines a reward function, for the cache key; None without one, or for an unknown module."""
    place = reward.rpartition(":")[0]
    if not place or place.endswith(".py"):
        return Path(place) if place else None
    try:
        spec = find_spec(place)
    except Exception:  # noqa: BLE001 - of a user's package, which this imports; the stage reports it
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None
