"""A stage that is killed at random moments and started again, until it ends: then its outputs are the undisturbed ones.

    python -m tests.drills.killed <stage> <folder> <kills> <seed>

The folder holds request.json, store and scratch. A kill hits the stage or one of its processes (the interpreter's, a
rank), by SIGKILL or SIGTERM. After each: what is visible is whole, nothing it had started is left, and what the next
attempt does again is the step it was killed in. Attempts are forked from this process, which has imported torch once.
Prints one JSON object.
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
from pathlib import Path

import psutil

from tasks.shared.stage import stage_main
from tests.drills.full_disk import Drill

GONE_WITHIN_S = 20.0


class Killed(Drill):
    """Attempts at one stage."""

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
            code = stage_main(self.stage, importlib.import_module(f"tasks.{self.stage}.main").run)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def steps(self) -> list[int]:
        """The steps that the last attempt told of."""
        lines = (self.folder / "out.txt").read_text().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [event["step"] for event in events if event["event"] == "progress"]

    def undisturbed(self) -> float:
        """Run it once; seconds."""
        started = time.monotonic()
        _, status = os.waitpid(self.attempt(), 0)
        assert status == 0, (self.folder / "err.txt").read_text()[-2000:]
        return time.monotonic() - started

    def kill_once(self, after_s: float, rng: random.Random) -> str:
        """An attempt that is hit after so many seconds; what was hit, "" if it had ended before."""
        child = self.attempt()
        deadline = time.monotonic() + after_s
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert status == 0, (self.folder / "err.txt").read_text()[-2000:]
                return ""
            time.sleep(0.005)
        stage = psutil.Process(child)
        below = stage.children(recursive=True)
        victim = rng.choice(below) if below and rng.random() < 0.4 else stage
        number = rng.choice((signal.SIGKILL, signal.SIGTERM))
        name = "stage" if victim is stage else _name(victim)
        _send(victim, number)
        _, status = os.waitpid(child, 0)  # hit below, it may get over it
        _, alive = psutil.wait_procs(below, timeout=GONE_WITHIN_S)
        assert not alive, f"left behind by a killed {name}: {[process.cmdline() for process in alive]}"
        return f"{name} {number.name}" + ("" if status else ", survived")


def _name(process: psutil.Process) -> str:
    try:
        return "interpreter" if any("sandbox" in word for word in process.cmdline()) else process.name()
    except psutil.NoSuchProcess:
        return "child"


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself in this moment
        process.send_signal(number)


def main() -> None:
    """See above."""
    drill, kills, rng = (
        Killed(sys.argv[1], Path(sys.argv[2])),
        int(sys.argv[3]),
        random.Random(int(sys.argv[4])),
    )
    importlib.import_module(f"tasks.{drill.stage}.main")
    seconds = drill.undisturbed()
    whole, hits, ends = drill.digests(), Counter[str](), 0
    drill.reset()
    last = 0
    while hits.total() < kills:
        what = drill.kill_once(rng.uniform(0.0, seconds), rng)
        drill.check_store()
        if drill.stage == "rl":  # which saves its state at each step
            steps = drill.steps()
            assert not steps or steps[0] >= last, f"steps done again: {steps[0]} after {last}"
            last = steps[-1] if steps else last
        if what:
            hits[what] += 1
        if not what or what.endswith("survived"):
            assert drill.digests() == whole, f"other outputs after {dict(hits)}"
            ends, last = ends + 1, 0
            drill.reset()
    drill.undisturbed()
    assert drill.digests() == whole, f"other outputs after {dict(hits)}"
    print(json.dumps({"seconds": round(seconds, 1), "hits": hits, "ends": ends + 1}))


if __name__ == "__main__":
    main()
