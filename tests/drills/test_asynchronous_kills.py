"""Trainer and sampler of an asynchronous round killed at random moments: every prompt is accounted for, by machine."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drills.table import kills_text
from tests.integration.ahead_world import ahead_request, check_account, killed_until_it_ends
from tests.integration.rl_world import make_store

STEPS = 40


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_asynchronous_round_killed(tmp_path: Path, saw: Callable[[str], None], kills: int) -> None:
    """Killed 1.5 times as often as `--kills` says: each draw is trained on once or dropped with its reason."""
    seed = random.randrange(10**6)
    request = ahead_request(tmp_path, make_store(tmp_path), "round", steps_per_round=STEPS)
    hits = killed_until_it_ends(tmp_path / "round", request, max(1, kills * 3 // 2), seed)
    counts = check_account(tmp_path, tmp_path / "round", STEPS)
    parts = ", ".join(f"{count} {name}" for name, count in sorted(hits.items()))
    saw(f"rl, asynchronous: {kills_text(hits.total())} ({parts}): {dict(counts)}; seed {seed}")
