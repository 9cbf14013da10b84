"""A stage is killed at random moments and restarted until it ends: its outputs equal those of an undisturbed run.

    python -m tests.drills.killed <stage> <folder> <kills> <seed> [ranks]

The folder holds request.json, store and scratch. A kill by SIGKILL or SIGTERM hits the stage or one of its processes
(the interpreter's, torchrun); with `ranks` always a rank, once it exists or at one of its steps. After each kill every
visible artifact is complete, no process is left, and the next attempt repeats only what came after the last saved step.
Attempts are forked from this process, which has imported torch once. Prints one JSON object.
"""

import contextlib
import importlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from tasks.recipes import find_stage
from tasks.shared.contract.stage import stage_main
from tests.drills.full_disk import Drill

GONE_WITHIN_S = 20.0


class Killed(Drill):
    """Attempts at one stage; `rng` draws what a kill hits, and when."""

    def __init__(self, stage: str, folder: Path, rng: random.Random, of_ranks: bool) -> None:
        super().__init__(stage, folder)
        self._rng, self._of_ranks = rng, of_ranks
        self._seconds, self._num_steps = 0.0, 0  # of the undisturbed run
        self._last_step = 0  # the last reported one since the folder was reset

    def attempt(self) -> int:
        """Start the stage in a session of its own; its process id."""
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        os.setsid()
        for descriptor, name in ((1, "out.txt"), (2, "err.txt")):
            os.dup2(os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
        sys.argv = ["main", str(self.folder / "request.json")]
        code = 1
        try:
            code = stage_main(find_stage(self.stage), importlib.import_module(f"tasks.{self.stage}.main").run)
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def undisturbed(self) -> None:
        """Run the stage to its end."""
        started = time.monotonic()
        _, status = os.waitpid(self.attempt(), 0)
        assert status == 0, self._errors()
        self._seconds, self._num_steps = time.monotonic() - started, self._steps_since(0.0)

    def kill_once(self) -> str:
        """Kill an attempt at a random moment. Returns what was hit, "" if the stage had ended before."""
        child = self.attempt()
        is_time = self._moment(child)
        while not is_time():
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert status == 0, self._errors()
                return ""
            time.sleep(0.05 if self._of_ranks else 0.005)
        stage = psutil.Process(child)
        below = stage.children(recursive=True)
        name, victim = self._victim(stage, below)
        number = self._rng.choice((signal.SIGKILL, signal.SIGTERM))
        _send(victim, number)
        _, status = os.waitpid(child, 0)  # a stage may survive the loss of one of its processes
        _, alive = psutil.wait_procs(below, timeout=GONE_WITHIN_S)
        assert not alive, f"left behind by a killed {name}: {[process.cmdline() for process in alive]}"
        if self._of_ranks and status:  # the launcher reads the signal from the exit code
            code = os.waitstatus_to_exitcode(status)
            assert code == 128 + number, f"{name} {number.name}: exit code {code}: {self._errors()}"
        return f"{name} {number.name}" + ("" if status else ", survived")

    def check_steps(self) -> None:
        """Check that the last attempt repeated only steps after the last saved one."""
        lines = (self.folder / "out.txt").read_text().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        steps = [event["step"] for event in events if event["event"] == "progress"]
        every = self.request.config.get(self.stage, {}).get("checkpoint_every_steps")
        if every and steps and self._last_step:
            saved = (self._last_step - 1) // every * every
            assert steps[0] > saved, f"steps done again: {steps[0]} after {self._last_step}"
        self._last_step = steps[-1] if steps else self._last_step

    def reset(self) -> None:
        """Restore the folder as it was before the first run."""
        super().reset()
        self._last_step = 0

    def _moment(self, child: int) -> Callable[[], bool]:
        """A condition that holds from a random moment on: of the stage's duration, or at one of the ranks' steps."""
        started = time.time()
        if not self._of_ranks:
            after_s = self._rng.uniform(0.0, self._seconds)
            return lambda: time.time() - started >= after_s
        step = self._rng.randrange(self._num_steps)
        return lambda: bool(self._steps_since(started) >= step if step else self._ranks(child))

    def _steps_since(self, moment: float) -> int:
        """Steps whose metrics were written after the given moment, in seconds since the epoch."""
        path = Path(self.request.scratch) / "metrics.jsonl"
        is_new = path.is_file() and path.stat().st_mtime > moment
        return path.read_text().count("\n") if is_new else 0

    def _victim(self, stage: psutil.Process, below: list[psutil.Process]) -> tuple[str, psutil.Process]:
        if self._of_ranks and (ranks := self._ranks(stage.pid)):
            return self._rng.choice(list(ranks.items()))
        victim = self._rng.choice(below) if below and self._rng.random() < 0.4 else stage
        return ("stage" if victim is stage else _name(victim)), victim

    def _ranks(self, child: int) -> dict[str, psutil.Process]:
        """The ranks of the attempt by name."""
        ranks = {}
        for process in psutil.Process(child).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if f"tasks.{self.stage}.main" in words and "torch.distributed.run" not in words:
                    ranks[f"rank {process.environ()['RANK']}"] = process
        return ranks

    def _errors(self) -> str:
        return (self.folder / "err.txt").read_text()[-2000:]


def _name(process: psutil.Process) -> str:
    try:
        return "interpreter" if any("sandbox" in word for word in process.cmdline()) else process.name()
    except psutil.NoSuchProcess:
        return "child"


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just exited
        process.send_signal(number)


def main() -> None:
    """Run the drill."""
    stage, folder, kills, seed, *rest = sys.argv[1:]
    drill = Killed(stage, Path(folder), random.Random(int(seed)), of_ranks=rest == ["ranks"])
    importlib.import_module(f"tasks.{stage}.main")
    drill.undisturbed()
    whole, hits, ends = drill.digests(), Counter[str](), 0
    drill.reset()
    while hits.total() < int(kills):
        what = drill.kill_once()
        drill.check_store()
        drill.check_steps()
        if what:
            hits[what] += 1
        if not what or what.endswith("survived"):
            assert drill.digests() == whole, f"other outputs after {dict(hits)}"
            ends += 1
            drill.reset()
    drill.undisturbed()
    assert drill.digests() == whole, f"other outputs after {dict(hits)}"
    print(json.dumps({"hits": hits, "ends": ends + 1}))


if __name__ == "__main__":
    main()
