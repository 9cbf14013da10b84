"""The policy loss against a loop over tokens in plain Python, and its gradient against finite differences."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rl.config import Objective, Reduction, RlConfig
from tasks.rl.objective.losses import PolicyTokens, policy_loss, token_weights


def random_tokens(seed: int, rows: int = 3, length: int = 7) -> PolicyTokens:
    generator = torch.Generator().manual_seed(seed)

    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(rows, length, generator=generator, dtype=torch.float64)

    old = -normal(1.0).abs()
    return PolicyTokens(
        logprobs=(old + normal(0.4)).requires_grad_(),
        old_logprobs=old,
        sampler_logprobs=old + normal(0.5),
        advantages=normal(1.5),
        weights=normal(0.1).abs(),
        loss_mask=torch.rand(rows, length, generator=generator) < 0.6,
        reference_logprobs=old + normal(0.3),
        entropy=normal(1.0).abs(),
        segments=torch.randint(1, 3, (1, length), generator=generator).sort().values
        + 2 * torch.arange(rows)[:, None],
    )


def slow_loss(tokens: PolicyTokens, s: RlConfig) -> tuple[float, dict[str, float]]:
    total, sums = 0.0, dict.fromkeys(["tokens", "clipped", "capped", "gap", "masked"], 0.0)
    for b, t in np.argwhere(tokens.loss_mask.numpy()):
        logprob, old = tokens.logprobs[b, t].item(), tokens.old_logprobs[b, t].item()
        sampler, advantage = tokens.sampler_logprobs[b, t].item(), tokens.advantages[b, t].item()
        ratio = math.exp(min(max(logprob - old, -20.0), 20.0))
        if s.objective == "gspo":
            ratio = min(math.exp(slow_mean(tokens, b, t, tokens.logprobs, tokens.old_logprobs)), math.exp(10))
        low, high = 1 - s.clip_low, 1 + s.clip_high
        bounded = min(max(ratio, low), high)
        objective = min(ratio * advantage, bounded * advantage)
        is_clipped = objective < ratio * advantage
        if s.objective == "cispo":
            objective, is_clipped = bounded * advantage * logprob, bounded != ratio
        if s.objective == "clip" and s.dual_clip and advantage < 0 and objective < s.dual_clip * advantage:
            objective, is_clipped = s.dual_clip * advantage, True
        importance = math.exp(min(max(old - sampler, -20.0), 20.0))
        cap = s.importance_cap
        loss = -objective * (min(importance, cap) if cap else 1.0)
        if s.sequence_mask and not 1 / s.sequence_mask <= slow_mean_ratio(tokens, b, t) <= s.sequence_mask:
            loss = 0.0
            sums["masked"] += 1
        reference = tokens.reference_logprobs
        if reference is not None:
            d = min(max(reference[b, t].item() - logprob, -20.0), 20.0)
            loss += s.kl_coefficient * min(math.exp(d) - d - 1, 10.0)
        loss -= s.entropy_coefficient * tokens.entropy[b, t].item()
        total += tokens.weights[b, t].item() * loss
        sums["tokens"] += 1
        sums["clipped"] += is_clipped
        sums["capped"] += bool(cap) and importance > cap
        sums["gap"] += abs(old - sampler)
    return total, sums


def slow_mean_ratio(tokens: PolicyTokens, b: int, t: int) -> float:
    """Geometric mean of trainer over sampler in the sequence of token t of row b."""
    return math.exp(slow_mean(tokens, b, t, tokens.old_logprobs, tokens.sampler_logprobs))


def slow_mean(tokens: PolicyTokens, b: int, t: int, above: torch.Tensor, below: torch.Tensor) -> float:
    """Mean of above - below, each cut to +-20, over the tokens in the loss of the sequence of token t of row b."""
    total, count = 0.0, 0
    for other in range(tokens.loss_mask.shape[1]):
        if tokens.loss_mask[b, other] and tokens.segments[b, other] == tokens.segments[b, t]:
            total += min(max((above[b, other] - below[b, other]).item(), -20.0), 20.0)
            count += 1
    return total / count


def settings_of(objective: Objective = "clip", **constants: float) -> RlConfig:
    """A recipe's section with these constants of the loss, and the reduction that its objective asks for."""
    reduction: Reduction = "sequence" if objective == "gspo" else "token"
    return RlConfig.model_validate({"objective": objective, "reduction": reduction, **constants})


some_settings = st.builds(
    settings_of,
    objective=st.sampled_from(["clip", "gspo", "cispo"]),
    clip_low=st.sampled_from([0.1, 0.2, 0.5]),
    clip_high=st.sampled_from([0.2, 0.28, 1.0]),
    dual_clip=st.sampled_from([0.0, 1.1, 3.0]),
    importance_cap=st.sampled_from([0.0, 1.05, 2.0]),
    sequence_mask=st.sampled_from([0.0, 1.1, 1.5]),
    kl_coefficient=st.sampled_from([0.0, 0.3]),
    entropy_coefficient=st.sampled_from([0.0, 0.2]),
)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), some_settings, st.booleans())
def test_loss_and_sums_match_the_slow_reference(seed: int, constants: RlConfig, with_reference: bool) -> None:
    tokens = random_tokens(seed)
    if not with_reference:
        tokens = replace(tokens, reference_logprobs=None)
    loss, sums = policy_loss(tokens, constants)
    expected, expected_sums = slow_loss(tokens, constants)
    assert loss.item() == pytest.approx(expected, abs=1e-10)
    assert sums.loss == pytest.approx(expected, abs=1e-10)
    for name, value in expected_sums.items():
        assert getattr(sums, name) == pytest.approx(value, abs=1e-9), name


def assert_gradient_is_that_of_differences(
    loss: torch.Tensor, tokens: PolicyTokens, constants: RlConfig
) -> None:
    """The gradient by every log-prob of one row, against finite differences of the slow loss."""
    (gradient,) = torch.autograd.grad(loss, tokens.logprobs)
    for t in range(tokens.logprobs.shape[1]):
        values = []
        for step in (1e-6, -1e-6):
            moved = tokens.logprobs.detach().clone()
            moved[0, t] += step
            values.append(slow_loss(replace(tokens, logprobs=moved), constants)[0])
        assert gradient[0, t].item() == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), some_settings)
def test_gradient_matches_finite_differences(seed: int, constants: RlConfig) -> None:
    constants = constants.model_copy(update={"objective": "clip"})  # the others detach a factor: below
    tokens = random_tokens(seed, rows=1, length=4)
    loss, _ = policy_loss(tokens, constants)
    if not loss.requires_grad or not tokens.loss_mask.any():
        return
    assert_gradient_is_that_of_differences(loss, tokens, constants)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([3e-4, 0.2]))
def test_gspos_gradient_is_that_of_the_sequence_s_ratio(seed: int, clip: float) -> None:
    """-w s A of every token in an unclipped sequence, as finite differences of sum w min(s A, clip(s) A)."""
    random = random_tokens(seed, rows=1, length=5)
    flat = torch.full_like(random.advantages, 1.0)
    tokens = replace(random, advantages=flat * (-1) ** seed, weights=0.1 * flat, reference_logprobs=None)
    constants = settings_of(objective="gspo", clip_low=clip, clip_high=clip, importance_cap=0.0)
    loss, _ = policy_loss(tokens, constants)
    if not tokens.loss_mask.any():
        return
    assert_gradient_is_that_of_differences(loss, tokens, constants)


def test_cispo_weighs_the_gradient_by_the_clipped_ratio() -> None:
    tokens = replace(random_tokens(4), reference_logprobs=None)
    constants = settings_of(objective="cispo", importance_cap=0.0)
    loss, sums = policy_loss(tokens, constants)
    (gradient,) = torch.autograd.grad(loss, tokens.logprobs)
    ratio = (tokens.logprobs.detach() - tokens.old_logprobs).exp().clamp(0.8, 1.28)
    expected = torch.where(tokens.loss_mask, -tokens.weights * ratio * tokens.advantages, 0.0)
    assert torch.allclose(gradient, expected) and sums.clipped > 0


def test_log_ratios_far_off_stay_finite() -> None:
    """verl's cuts: 20 for one token's log-ratio, 10 for its KL. Without them exp(200) makes the loss infinite."""
    old = torch.tensor([[-200.0, -0.1]], dtype=torch.float64)
    tokens = PolicyTokens(
        logprobs=old.flip(1).clone().requires_grad_(),
        old_logprobs=old,
        sampler_logprobs=old.flip(1),
        advantages=torch.ones(1, 2, dtype=torch.float64),
        weights=torch.ones(1, 2, dtype=torch.float64),
        loss_mask=torch.ones(1, 2, dtype=torch.bool),
        entropy=torch.zeros_like(old),
        segments=torch.tensor([[1, 2]]),
        reference_logprobs=old,
    )
    for objective in ("clip", "gspo", "cispo"):
        loss, sums = policy_loss(tokens, settings_of(objective=objective, kl_coefficient=1.0))
        (gradient,) = torch.autograd.grad(loss, tokens.logprobs)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
        assert sums.kl_reference == sums.kl_old == sums.gap_kl == pytest.approx(20.0)


def test_on_policy_gradient_is_the_plain_policy_gradient() -> None:
    """At ratio 1 clip and dual clip do nothing: d loss / d logprob = -w A."""
    tokens = random_tokens(1)
    on_policy = tokens.old_logprobs.clone().requires_grad_()
    tokens = replace(
        tokens, logprobs=on_policy, sampler_logprobs=tokens.old_logprobs, reference_logprobs=None
    )
    loss, sums = policy_loss(tokens, settings_of())
    (gradient,) = torch.autograd.grad(loss, on_policy)
    expected = torch.where(tokens.loss_mask, -tokens.weights * tokens.advantages, 0.0)
    assert torch.allclose(gradient, expected)
    assert sums.clipped == sums.gap == sums.kl_old == 0


def test_masked_tokens_do_not_matter() -> None:
    tokens = random_tokens(3)
    changed = {
        name: torch.where(tokens.loss_mask, getattr(tokens, name).detach(), torch.nan)
        for name in (
            "logprobs",
            "old_logprobs",
            "sampler_logprobs",
            "advantages",
            "weights",
            "reference_logprobs",
            "entropy",
        )
    }
    changed["logprobs"].requires_grad_()
    again = PolicyTokens(loss_mask=tokens.loss_mask, segments=tokens.segments, **changed)
    assert policy_loss(again, settings_of())[0].item() == policy_loss(tokens, settings_of())[0].item()
    loss, _ = policy_loss(again, settings_of())
    loss.backward()
    gradient = changed["logprobs"].grad
    assert gradient is not None and (gradient[~tokens.loss_mask] == 0).all()


def test_micro_batches_add_up_to_the_whole() -> None:
    tokens = random_tokens(5, rows=6)
    whole, sums = policy_loss(tokens, settings_of())

    def part(rows: slice) -> PolicyTokens:
        return PolicyTokens(*(getattr(tokens, name)[rows] for name in PolicyTokens.__dataclass_fields__))

    pieces = [policy_loss(part(rows), settings_of()) for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    assert sum(loss.item() for loss, _ in pieces) == pytest.approx(whole.item(), abs=1e-12)
    assert sum(s.clipped for _, s in pieces) == sums.clipped
    assert max(s.gap_max for _, s in pieces) == sums.gap_max


def test_weights_name_their_denominator() -> None:
    assert token_weights([2, 6], "token").tolist() == [1 / 8, 1 / 8]
    assert token_weights([2, 6], "sequence").tolist() == [1 / 4, 1 / 12]
    assert token_weights([2, 6], "constant", most_tokens=40).tolist() == [1 / 40, 1 / 40]
    for reduction in ("token", "sequence"):
        lengths = [3, 1, 7]
        assert float(np.dot(token_weights(lengths, reduction), lengths)) == pytest.approx(1.0)


def test_with_the_constant_reduction_a_token_weighs_the_same_in_every_step() -> None:
    """A token's weight depends neither on its trajectory's length nor on the number of trajectories."""
    alone, among = token_weights([5], "constant", 1000), token_weights([5, 90, 3], "constant", 1000)
    assert alone[0] == among[0] == among[1]


def test_a_sequence_far_from_its_sampler_is_masked() -> None:
    """Two sequences; the second's log-probs are off by 0.5 on average, those of one token of the first by 0.5 alone."""
    old = torch.full((1, 4), -1.0, dtype=torch.float64)
    tokens = PolicyTokens(
        logprobs=old.clone().requires_grad_(),
        old_logprobs=old,
        sampler_logprobs=old - torch.tensor([[0.5, 0.0, 0.4, 0.6]], dtype=torch.float64),
        advantages=torch.ones(1, 4, dtype=torch.float64),
        weights=torch.full((1, 4), 0.25, dtype=torch.float64),
        loss_mask=torch.ones(1, 4, dtype=torch.bool),
        entropy=torch.zeros_like(old),
        segments=torch.tensor([[1, 1, 2, 2]]),
    )
    loss, sums = policy_loss(tokens, settings_of(sequence_mask=math.exp(0.4), importance_cap=0.0))
    (gradient,) = torch.autograd.grad(loss, tokens.logprobs)
    assert gradient.tolist() == [[-0.25, -0.25, 0.0, 0.0]]
    assert sums.masked == 2 and sums.tokens == 4
