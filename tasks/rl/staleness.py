"""The age of the tokens that a step learns from, and the gap between sampler and trainer by age.

An age is a number of RL steps: those done before the step that learns, minus those done before the weights that sampled
the token were made.
"""

from collections.abc import Sequence

import numpy as np
import torch

from tasks.rl.objective.losses import k3
from tasks.shared.contract.stage import Value
from tasks.shared.traces.trajectory import Trajectory


def token_ages(trajectory: Trajectory, step: int) -> np.ndarray:
    """(R,) ages, with `step` steps done; 0 for tokens that the policy did not sample, or whose version is unknown."""
    ages = np.zeros(len(trajectory.response_ids), dtype=np.int64)
    if trajectory.versions:
        versions, counts = zip(*trajectory.versions, strict=True)
        ages[np.array(trajectory.loss_mask, dtype=bool)] = step - np.repeat(versions, counts)
    return ages


def sums_by_age(log_importance: torch.Tensor, ages: torch.Tensor, bound: int) -> np.ndarray:
    """(3, bound + 1): number of tokens, sum of |trainer - sampler| log-probs and of the k3 estimate of
    KL(sampler || trainer), by age. log_importance (n,) is ln trainer - ln sampler, ages (n,) from 0 to `bound`."""
    age = ages.long().cpu().numpy()
    sums = [np.ones(len(age)), log_importance.abs().cpu().numpy(), k3(log_importance).cpu().numpy()]
    return np.stack([np.bincount(age, weights, minlength=bound + 1) for weights in sums])


def staleness_metrics(
    step: int, trajectories: Sequence[Trajectory], sums: np.ndarray | None, bound: int
) -> dict[str, Value]:
    """staleness/<age>: trajectories by the age of their first token, with `step` steps done; tokens/, gap_mean/ and
    gap_kl/staleness_<age>: tokens in the loss by their own age. Empty if `bound` is 0."""
    if not bound:
        return {}
    begun = [step - t.oldest_version for t in trajectories if t.oldest_version is not None]
    metrics: dict[str, Value] = {f"staleness/{age}": begun.count(age) for age in range(bound + 1)}
    for age in range(bound + 1):
        tokens, gap, kl = sums[:, age] if sums is not None else (0.0, 0.0, 0.0)
        metrics[f"tokens/staleness_{age}"] = int(tokens)
        metrics[f"gap_mean/staleness_{age}"] = float(gap / tokens) if tokens else None
        metrics[f"gap_kl/staleness_{age}"] = float(kl / tokens) if tokens else None
    return metrics
