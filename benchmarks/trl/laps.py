"""Programs that take turns: each does one lap (an optimizer step) when it is told to, while the others wait.

The driver starts a process for each (`Racer`), in an environment of its own, and `race` lets them step in turn, so
that noise of the machine falls on all alike. Inside the process, `Track.lap` ends a lap, reports it and waits for the
next turn. Turns are lines on stdin, laps JSON lines on what was stdout; anything else printed there goes to stderr.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

Lap = dict[str, float]
ROOT = Path(__file__).resolve().parents[2]
TRL_PYTHON = ROOT / ".venv-trl" / "bin" / "python"


def trl_version(python: Path) -> str:
    """The release of TRL in the environment of `python`. ValueError if there is none."""
    found = list(python.parents[1].glob("lib/python*/site-packages/trl-*.dist-info"))
    if not found:
        raise ValueError(f"{python}: no TRL in this environment; run make setup-trl")
    return found[0].name.removeprefix("trl-").removesuffix(".dist-info")


class Track:
    """The racer's side."""

    def __init__(self) -> None:
        self._reports = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._wait()

    def lap(self, **figures: float) -> None:
        """End a lap: report its seconds with `figures`, then wait for a turn. SystemExit where none comes any more."""
        lap = {
            "wall_s": time.perf_counter() - self._started,
            "cpu_s": time.process_time() - self._used,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # since the process began
            **figures,
        }
        self._reports.write(json.dumps(lap) + "\n")
        self._reports.flush()
        self._wait()

    def _wait(self) -> None:
        if not sys.stdin.readline():
            raise SystemExit(0)
        self._started, self._used = time.perf_counter(), time.process_time()


class Racer:
    """The driver's side: a process that waits for its turns. One thread of torch, as stages have it."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.laps: list[Lap] = []
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )

    def lap(self) -> Lap:
        """Give a turn and wait for its end. RuntimeError if the process died instead; its stderr says why."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(
                f"{self.name} died (exit code {self._process.wait()}); see what it wrote above"
            )
        return json.loads(line)

    def stop(self) -> None:
        """No more turns: the process ends by itself."""
        self._process.communicate()


def race(racers: Sequence[Racer], rounds: int, warm_up: int) -> None:
    """`rounds` laps of each racer into its `laps`, in a changing order, after `warm_up` laps that do not count."""
    try:
        for number in range(-warm_up, rounds):
            first = number % len(racers)
            for racer in [*racers[first:], *racers[:first]]:
                lap = racer.lap()
                racer.laps += [lap] if number >= 0 else []
                print(f"round {number + 1}, {racer.name}: {lap['wall_s']:.2f} s", file=sys.stderr)
    finally:
        for racer in racers:
            racer.stop()


def median(racer: Racer, figure: str, per: str = "") -> float:
    """Median over laps of a figure, or of its ratio to another of the same lap."""
    return statistics.median(lap[figure] / (lap[per] if per else 1.0) for lap in racer.laps)
