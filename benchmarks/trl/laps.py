"""Programs that take turns: each runs one lap (an optimizer step) when its turn comes, while the others wait.

The driver starts a process for each (`Racer`), in an environment of its own, and `race` lets them step in turn. Inside
the process, `Track.lap` ends a lap, reports it and waits for the next turn. Turns are lines on stdin, laps JSON lines
on what was stdout; anything else printed there goes to stderr.
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

from benchmarks.rounds import turns

Lap = dict[str, float]
ROOT = Path(__file__).resolve().parents[2]
TRL_PYTHON = ROOT / ".venv-trl" / "bin" / "python"


def trl_version(python: Path) -> str:
    """The release of TRL in the environment of `python`. Raises ValueError if there is none."""
    found = list(python.parents[1].glob("lib/python*/site-packages/trl-*.dist-info"))
    if not found:
        raise ValueError(f"{python}: no TRL in this environment; run make setup-trl")
    return found[0].name.removeprefix("trl-").removesuffix(".dist-info")


class Track:
    """The side of the process."""

    def __init__(self) -> None:
        self._reports = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._wait()

    def lap(self, **figures: float) -> None:
        """End a lap: report its seconds with `figures`, then wait for a turn. Raises SystemExit if none comes."""
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
    """The driver's side: a process that waits for its turns, with one thread of torch, as stages have."""

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
        """Give a turn and wait for its end. Raises RuntimeError if the process dies; its stderr says why."""
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
        """Close its stdin; the process then ends by itself."""
        self._process.communicate()


def start_racer(name: str, module: str, *arguments: object) -> Racer:
    """Start benchmarks/trl/`module`.py, in TRL's environment if its name ends in "_trl"."""
    python = str(TRL_PYTHON) if module.endswith("_trl") else sys.executable
    return Racer(name, [python, "-m", f"benchmarks.trl.{module}", *map(str, arguments)])


def race(racers: Sequence[Racer], rounds: int, warm_up: int) -> None:
    """Append `rounds` laps to the `laps` of each racer, after `warm_up` laps that do not count."""
    try:
        for number, racer in turns(racers, rounds, warm_up):
            lap = racer.lap()
            racer.laps += [lap] if number >= 0 else []
            print(f"round {number + 1}, {racer.name}: {lap['wall_s']:.2f} s", file=sys.stderr)
    finally:
        for racer in racers:
            racer.stop()


def median(racer: Racer, figure: str, per: str = "") -> float:
    """Median over laps of a figure, or of its ratio to another of the same lap."""
    return statistics.median(lap[figure] / (lap[per] if per else 1.0) for lap in racer.laps)
