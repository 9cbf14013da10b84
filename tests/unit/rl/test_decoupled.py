"""The decoupled objective in a whole update: a policy of one distribution against AReaL's formula, token by token."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tasks.rl.config import RlConfig
from tasks.rl.experience import Experience, Graded
from tasks.rl.update import PolicyUpdate, mini_batches_of
from tasks.shared.learning.packing import PackedBatch, TrainSequence, pack
from tasks.shared.traces.trajectory import FinishReason, Trajectory

VOCABULARY, SEED = 5, 3


class OneDistribution:
    """A policy that draws every token from softmax(theta), under plain gradient descent; it keeps each theta."""

    device, learning_rate, skipped = torch.device("cpu"), 1.0, False

    def __init__(self, generator: torch.Generator) -> None:
        self.theta = torch.randn(VOCABULARY, generator=generator, requires_grad=True)
        self.history = [self.theta.tolist()]

    def dealt_rows(self, sequences: list[TrainSequence], row_tokens: int) -> list[PackedBatch]:
        return pack(sequences, row_tokens)

    def token_logprobs(self, row: PackedBatch, temperature: float) -> torch.Tensor:
        return torch.log_softmax(self.theta, dim=0)[row.ids]

    def token_scores(self, row: PackedBatch, temperature: float, with_entropy: bool) -> Any:
        logprobs = self.token_logprobs(row, temperature)
        return SimpleNamespace(logprobs=logprobs, entropy=torch.zeros_like(logprobs))

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> float:
        assert self.theta.grad is not None
        norm = float(self.theta.grad.norm())
        with torch.no_grad():
            self.theta -= 20 * self.theta.grad  # far enough that ratios are clipped
        self.theta.grad = None
        self.history.append(self.theta.tolist())
        return norm


def log_softmax(theta: list[float], token: int) -> float:
    return theta[token] - math.log(sum(math.exp(value) for value in theta))


def sampled_by_three_versions(rng: np.random.Generator) -> Trajectory:
    """Six tokens, two of each of three other policies, with their log-probs."""
    ids = rng.integers(VOCABULARY, size=6).tolist()
    policies = rng.normal(size=(3, VOCABULARY)).tolist()
    logprobs = tuple(log_softmax(policies[place // 2], token) for place, token in enumerate(ids))
    return Trajectory(
        "p",
        0,
        (1,),
        tuple(ids),
        (True,) * 6,
        logprobs,
        (),
        FinishReason.EOS,
        "",
        "",
        versions=((0, 2), (1, 2), (2, 2)),
    )


def slow_loss(
    part: np.ndarray,
    trajectories: list[Trajectory],
    advantages: np.ndarray,
    proximal: list[float],
    theta: list[float],
    rl: RlConfig,
) -> float:
    """-E[min(cap, pi_prox / pi_sampler) min(r A, clip(r) A)], r = pi_theta / pi_prox, with the dual clip."""
    total, count = 0.0, 0
    for i in part:
        for token, sampler in zip(trajectories[i].response_ids, trajectories[i].logprobs, strict=True):
            prox, advantage = log_softmax(proximal, token), float(advantages[i])
            ratio = math.exp(log_softmax(theta, token) - prox)
            bounded = min(max(ratio, 1 - rl.clip_low), 1 + rl.clip_high)
            objective = min(ratio * advantage, bounded * advantage)
            if advantage < 0:
                objective = max(objective, rl.dual_clip * advantage)
            total -= min(math.exp(prox - sampler), rl.importance_cap) * objective
            count += 1
    return total / count


def test_clip_and_importance_weight_use_different_policies() -> None:
    """Both mini-batches are clipped around the policy before the first and weighed by it over each token's sampler."""
    rng, rl = np.random.default_rng(0), RlConfig(mini_batches=2, importance_cap=1.7)
    trajectories = [sampled_by_three_versions(rng) for _ in range(8)]
    advantages, none = rng.normal(size=8), np.zeros(8, dtype=bool)
    graded = tuple(Graded(t, 0, "", True, "equal", 1.0, 1.0) for t in trajectories)
    engine = OneDistribution(torch.Generator().manual_seed(SEED))
    update = PolicyUpdate(engine, rl, None, max_response_tokens=6)  # type: ignore[arg-type]
    result = update.update(Experience(graded, none, none, ~none, advantages, none), SEED)

    before, between, _ = engine.history
    first, second = mini_batches_of(np.arange(8), 2, SEED)
    expected = [
        slow_loss(part, trajectories, advantages, before, theta, rl)
        for part, theta in ((first, before), (second, between))
    ]
    assert result.sums.loss == pytest.approx(np.mean(expected), abs=1e-5)
    coupled = slow_loss(second, trajectories, advantages, between, between, rl)
    assert abs(coupled - expected[1]) > 0.01, "the reference would not tell the two policies apart"
    assert 0 < result.sums.clipped < result.sums.tokens and 0 < result.sums.capped < result.sums.tokens
