"""The clipped policy loss on packed tokens: pure functions whose docstrings give formula and denominator.

The denominator is in the per-token weights (`token_weights`), computed once over the whole optimizer step. So the
losses of micro-batches and ranks add up to the loss of the step, however it is cut.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tasks.rl.config import Reduction, RlConfig

MOST_LOG_RATIO = 20.0  # of one token; beyond it exp() carries no information (verl)
MOST_SEQUENCE_LOG_RATIO = 10.0  # of a sequence's geometric mean, from above (verl)
MOST_K3 = 10.0  # nats of one token (verl)


@dataclass(frozen=True, slots=True)
class PolicyTokens:
    """The loss's input for each token, all (B, T); values where `loss_mask` is False are ignored."""

    logprobs: torch.Tensor  # of the trained policy, with gradient
    old_logprobs: torch.Tensor  # of the trainer's policy at the start of the update: the proximal policy
    sampler_logprobs: torch.Tensor  # of the engine when it sampled the token, with the weights of that moment
    advantages: torch.Tensor
    weights: torch.Tensor  # from `token_weights`
    loss_mask: torch.Tensor  # bool: sampled tokens in the loss
    entropy: torch.Tensor  # nats, with gradient
    segments: torch.Tensor  # int: the sequence in its row; for `sequence_mask` and GSPO
    reference_logprobs: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class PolicySums:
    """Sums over tokens in the loss: add them over micro-batches and ranks, then divide by `tokens`."""

    tokens: float
    loss: float  # already weighted: add, do not divide
    clipped: float  # tokens at which the clip is active
    kl_old: float  # k3 estimate of KL(old || current)
    kl_reference: float
    entropy: float
    gap: float  # |trainer - sampler| log-prob
    gap_kl: float  # k3 estimate of KL(sampler || trainer)
    gap_max: float  # the largest: take the maximum, do not add
    capped: float  # tokens whose importance weight is capped
    # tokens of sequences that `sequence_mask` masks; they still count in the sums above
    masked: float = 0.0


def token_weights(num_tokens: Sequence[int], reduction: Reduction, most_tokens: float = 0.0) -> np.ndarray:
    """Weight of each token of sequence i, (N,), from the number of its tokens in the loss, over the whole step.

    token     1 / sum_j n_j: every token weighs the same (DAPO)
    sequence  1 / (N n_i): every trajectory weighs the same (GRPO)
    constant  1 / most_tokens, the most that a step could sample: favours no length and no number (Dr.GRPO)
    """
    lengths = np.asarray(num_tokens, dtype=np.float64)
    assert (lengths > 0).all(), "a trajectory in the loss without sampled tokens"
    if reduction == "sequence":
        return 1.0 / (len(lengths) * lengths)
    if reduction == "constant":
        assert most_tokens > 0, "the constant reduction needs its constant"
        return np.full(len(lengths), 1.0 / most_tokens)
    return np.full(len(lengths), 1.0 / lengths.sum()) if len(lengths) else lengths


def sequence_kept(log_ratio: torch.Tensor, segments: torch.Tensor, bound: float) -> torch.Tensor:
    """(n,) bool: tokens of sequences with 1 / bound <= exp(mean log_ratio) <= bound.

    log_ratio (n,): ln trainer - ln sampler of the tokens in the loss; segments (n,): their sequence numbers. The bound
    on the geometric mean, unlike one on the product, is independent of the length (verl's 'geometric' correction).
    """
    return sequence_means(log_ratio, segments).abs() <= math.log(bound)


def sequence_means(values: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """(n,): at each token the mean of values (n,) over its sequence; segments (n,): the sequence numbers."""
    _, place = segments.unique(return_inverse=True)
    counts = torch.bincount(place).to(values.dtype)
    means = torch.zeros_like(counts).index_add_(0, place, values) / counts
    return means[place]


def clipped_term(
    logprob: torch.Tensor,
    log_ratio: torch.Tensor,
    advantage: torch.Tensor,
    segments: torch.Tensor,
    settings: RlConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The policy's part of the loss at each token, and where its clip is active; all (n,). sg: stop-gradient.

    clip   max(-r_t A_t, -clip(r_t, 1 - low, 1 + high) A_t); for A_t < 0 at most -c A_t (dual clip)
    gspo   the same without dual clip, of s_t = sg[s] pi(t) / sg[pi(t)], where s = exp(mean_t ln r_t) is the ratio of
           the sequence (arXiv 2507.18071, its token form): value and clip are the sequence's
    cispo  -sg[clip(r_t, 1 - low, 1 + high)] A_t ln pi(t): no token loses its gradient (arXiv 2506.13585)
    """
    if settings.objective == "gspo":
        mean = sequence_means(log_ratio.detach(), segments)
        log_ratio = (logprob - logprob.detach() + mean).clamp(max=MOST_SEQUENCE_LOG_RATIO)
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    if settings.objective == "cispo":
        return -bounded.detach() * advantage * logprob, bounded != ratio
    plain, clipped = -ratio * advantage, -bounded * advantage
    loss, active = torch.maximum(plain, clipped), clipped > plain
    if settings.dual_clip and settings.objective == "clip":
        bound = -settings.dual_clip * advantage
        active = active | ((advantage < 0) & (loss > bound))
        loss = torch.where(advantage < 0, torch.minimum(loss, bound), loss)
    return loss, active


def policy_loss(tokens: PolicyTokens, settings: RlConfig) -> tuple[torch.Tensor, PolicySums]:
    """The loss (scalar) and the sums behind its metrics.

    sum_t w_t [ rho_t L_t + kl k3_t - entropy H_t ]
    Two separate ratios (the decoupled objective of AReaL, arXiv 2505.24298): the clip keeps pi near the policy at the
    start of the update, pi_old. An importance weight for each token corrects for the weights that sampled it, which may
    be older than pi_old and change along a trajectory. The cap is ours; the paper has none.
    L_t: `clipped_term` of r_t = pi(t) / pi_old(t), whose logarithm is cut to +-20.
    rho_t = min(pi_old(t) / sampler(t), cap), a constant (truncated importance sampling; 1 without a cap). In a sequence
    that `sequence_kept` refuses it is 0, for the policy term alone; the sequence's weight stays in the denominator.
    k3_t = exp(d) - d - 1 with d = ln pi_ref(t) - ln pi(t) cut to +-20, at most 10. w_t: `token_weights`.
    """
    mask = tokens.loss_mask
    advantage = tokens.advantages[mask]
    logprob, old, sampler = tokens.logprobs[mask], tokens.old_logprobs[mask], tokens.sampler_logprobs[mask]
    log_ratio = _cut(logprob - old)
    segments, entropy = tokens.segments[mask], tokens.entropy[mask]
    loss, active = clipped_term(logprob, log_ratio, advantage, segments, settings)
    importance = _cut(old - sampler).exp()
    if settings.importance_cap:
        loss = loss * importance.clamp(max=settings.importance_cap)
    kept = torch.ones_like(loss, dtype=torch.bool)
    if settings.sequence_mask:
        kept = sequence_kept(old - sampler, segments, settings.sequence_mask)
        loss = loss * kept
    kl_reference = torch.zeros_like(loss)
    if tokens.reference_logprobs is not None:
        kl_reference = k3(tokens.reference_logprobs[mask] - logprob)
        loss = loss + settings.kl_coefficient * kl_reference
    if settings.entropy_coefficient:
        loss = loss - settings.entropy_coefficient * entropy
    total = (tokens.weights[mask] * loss).sum()
    return total, _sums(
        total, log_ratio.detach(), old - sampler, active, kl_reference, entropy, kept, settings.importance_cap
    )


@torch.no_grad()
def _sums(
    total: torch.Tensor,
    log_ratio: torch.Tensor,  # current over old, (n,) as all that follow
    log_importance: torch.Tensor,  # trainer over sampler
    active: torch.Tensor,
    kl_reference: torch.Tensor,
    entropy: torch.Tensor,
    kept: torch.Tensor,
    importance_cap: float,
) -> PolicySums:
    gap = log_importance.abs()
    return PolicySums(
        tokens=float(gap.numel()),
        loss=float(total),
        clipped=float(active.sum()),
        kl_old=float(k3(log_ratio).sum()),
        kl_reference=float(kl_reference.sum()),
        entropy=float(entropy.sum()),
        gap=float(gap.sum()),
        gap_kl=float(k3(log_importance).sum()),
        gap_max=float(gap.max()) if gap.numel() else 0.0,
        capped=float((_cut(log_importance).exp() > (importance_cap or torch.inf)).sum()),
        masked=float((~kept).sum()),
    )


def k3(log_ratio: torch.Tensor) -> torch.Tensor:
    """exp(x) - x - 1 >= 0: Schulman's low-variance KL estimate, from samples of the ratio's denominator."""
    log_ratio = _cut(log_ratio)
    return (torch.expm1(log_ratio) - log_ratio).clamp(max=MOST_K3)


def _cut(log_ratio: torch.Tensor) -> torch.Tensor:
    """The logarithm of a ratio within +-20."""
    return log_ratio.clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO)
