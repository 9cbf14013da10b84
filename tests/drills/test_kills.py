"""Drills that kill stages and their processes at random moments. The same command then ends with equal outputs."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drills import table, worlds

SHARES = {
    "prepare": 1,
    "synthesize": 2,
    "sft": 5,
    "sft_two_ranks": 2,
    "rl": 7,
    "evaluate": 2,
    "report": 1,
}  # of 20
RANKS_SHARE = 1  # of 20, for each of the worlds with ranks


def kill(folder: Path, world: str, kills: int, *aim: str) -> str:
    """Run the drill of `killed.py`. Returns what was hit, and how often equal outputs followed."""
    request, seed = worlds.REQUESTS[world](folder), random.randrange(10**6)
    (folder / "request.json").write_text(request.model_dump_json())
    command = [sys.executable, "-m", "tests.drills.killed", request.stage, str(folder), str(kills), str(seed)]
    done = subprocess.run([*command, *aim], env=worlds.environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2000:]}"
    report = json.loads(done.stdout.splitlines()[-1])
    hits = ", ".join(f"{count} {what}" for what, count in sorted(report["hits"].items()))
    total = sum(report["hits"].values())
    return f"{table.kills_text(total)} ({hits}), ended {report['ends']} times with equal outputs; seed {seed}"


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("world", list(SHARES))
def test_killed_at_random_moments(tmp_path: Path, saw: Callable[[str], None], kills: int, world: str) -> None:
    """A stage or a child of it is killed at random moments: reruns give equal outputs, no leftovers, no step twice."""
    saw(f"{world}: {kill(tmp_path / 'f', world, max(1, kills * SHARES[world] // 20))}")


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("world", ["sft_two_ranks", "rl_two_ranks"])
def test_rank_killed(tmp_path: Path, saw: Callable[[str], None], kills: int, world: str) -> None:
    """A rank is killed at one of its steps: the stage's exit code names the signal; a rerun gives equal outputs."""
    saw(f"{world}: {kill(tmp_path / 'f', world, max(1, kills * RANKS_SHARE // 20), 'ranks')}")


def test_sft_killed(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """SFT is killed at random moments and run again: equal weights, only complete artifacts, no step twice."""
    saw(kill(tmp_path / "f", "sft", 1))
