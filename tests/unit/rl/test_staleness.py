"""Ages of tokens, and sums by age."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.report.asynchronous import asynchronous_curves, read_measured
from tasks.rl.staleness import staleness_metrics, sums_by_age, token_ages
from tasks.shared.generation.interleave import RolloutRequest
from tests.unit.rl.test_buffer import trajectory

REQUEST = RolloutRequest("p", 0, (1, 2), 0)


def test_each_token_has_the_age_of_the_weights_that_sampled_it() -> None:
    made = trajectory(REQUEST, 3)  # two tokens of version 3, feedback, one of version 4
    assert token_ages(made, 5).tolist() == [2, 2, 0, 1]


def test_sums_by_age_are_those_of_a_loop_and_the_report_draws_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gaps, ages = rng.normal(scale=0.3, size=40), rng.integers(0, 3, 40)
    sums = sums_by_age(torch.tensor(gaps), torch.tensor(ages, dtype=torch.float32), 3)
    for age in range(4):
        of_age = [gap for gap, its in zip(gaps, ages, strict=True) if its == age]
        kl = sum(math.exp(gap) - 1 - gap for gap in of_age)
        assert sums[:, age].tolist() == pytest.approx([len(of_age), sum(map(abs, of_age)), kl])
    metrics = staleness_metrics(5, [trajectory(REQUEST, 3), trajectory(REQUEST, 5)], sums, 3)
    assert [metrics[f"staleness/{age}"] for age in range(4)] == [1, 0, 1, 0]
    assert metrics["gap_mean/staleness_3"] is None  # no token is that old
    assert metrics["gap_mean/staleness_1"] == pytest.approx(sums[1, 1] / sums[0, 1])
    assert staleness_metrics(5, [], None, 0) == {}  # a synchronous step

    (tmp_path / "circumstances").mkdir()
    lines = [json.dumps({"step": step} | metrics) for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    clock = [json.dumps({"step": step, "sampler_idle": 0.1 * step, "queue": step}) for step in (1, 2)]
    (tmp_path / "circumstances/timing.jsonl").write_text("\n".join(clock) + "\n")
    charts = asynchronous_curves(read_measured(tmp_path))
    assert "Trajectories by staleness" in charts[0] and "3 steps" in charts[0]
    assert "Idle" in charts[3] and charts[5] == ""  # no tokens a second were measured
