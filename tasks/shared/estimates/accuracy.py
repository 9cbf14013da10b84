"""avg@k, unbiased pass@k, maj@k and the split of the variance, from graded samples grouped by problem.

Outages (the sandbox failed) are no outcomes: they are repeated, not counted as wrong.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tasks.shared.estimates.intervals import Array, Estimate, estimate


@dataclass(frozen=True, slots=True)
class Outcome:
    """One graded sample."""

    correct: bool
    predicted: str | None  # the answer as written; None: no answer, hence no vote


Evaluation = Mapping[str, Sequence[Outcome]]  # problem id -> its samples


@dataclass(frozen=True, slots=True)
class VarianceSplit:
    """The sources of the spread of scores; variances of a single sample's score."""

    within: float  # p(1-p) averaged over problems: shrinks with more samples
    between: float  # of the problems' true means: shrinks only with more problems
    standard_error: float  # of avg@k


def problem_means(evaluation: Evaluation) -> Array:
    """Share of correct samples, (problems,), in the mapping's order."""
    return np.array([np.mean([outcome.correct for outcome in samples]) for samples in evaluation.values()])


def avg_at_k(evaluation: Evaluation) -> Estimate:
    """Mean accuracy: the mean over problems of the share of correct samples."""
    return estimate(problem_means(evaluation))


def pass_at_k(evaluation: Evaluation, k: int) -> Estimate:
    """Chance that at least one of k samples is correct: mean of 1 - C(n-c, k)/C(n, k) (Chen et al. 2021).

    Raises ValueError if a problem has fewer than k samples.
    """
    _require_samples(evaluation, k)
    values = []
    for samples in evaluation.values():
        count, wrong = len(samples), sum(not outcome.correct for outcome in samples)
        values.append(1 - math.comb(wrong, k) / math.comb(count, k))
    return estimate(np.array(values))


def maj_at_k(evaluation: Evaluation, k: int, seed: int = 0, num_subsets: int = 1000) -> Estimate:
    """Chance that the most frequent answer of k samples is correct; ties are broken at random.

    All correct samples are one answer; wrong ones are distinguished by their text (give equal ones one spelling first,
    as `grading.pooled` does); samples without an answer do not vote. Exact (every subset of k) for up to `num_subsets`
    subsets, else over that many random ones. Raises ValueError if a problem has fewer than k samples.
    """
    _require_samples(evaluation, k)
    rng = np.random.default_rng(seed)
    values = []
    for samples in evaluation.values():
        votes = [_vote(outcome) for outcome in samples]
        subsets = _subsets(len(votes), k, num_subsets, rng)
        values.append(float(np.mean([_majority([votes[index] for index in subset]) for subset in subsets])))
    return estimate(np.array(values))


def sampling_variances(evaluation: Evaluation) -> tuple[Array, Array]:
    """Unbiased variances, (problems,) each: of a problem's mean, and of a single sample of it."""
    means = problem_means(evaluation)
    counts = np.array([len(samples) for samples in evaluation.values()])
    noise = means * (1 - means) / np.maximum(counts - 1, 1)
    return noise, noise * counts


def variance_split(evaluation: Evaluation) -> VarianceSplit:
    """Unbiased variance components; `between` is 0 if noise alone explains the spread."""
    means, (noise, within_problems) = problem_means(evaluation), sampling_variances(evaluation)
    within = float(within_problems.mean())
    spread = float(means.var(ddof=1)) if len(means) > 1 else 0.0
    between = max(0.0, spread - float(noise.mean()))
    return VarianceSplit(within, between, math.sqrt(spread / len(means)))


def _require_samples(evaluation: Evaluation, k: int) -> None:
    fewest = min((len(samples) for samples in evaluation.values()), default=0)
    if not 1 <= k <= fewest:
        raise ValueError(f"k = {k} needs that many samples of every problem; the fewest are {fewest}")


def _vote(outcome: Outcome) -> str | None:
    if outcome.correct:
        return "correct"
    return None if outcome.predicted is None else f"wrong {outcome.predicted.strip()}"


def _subsets(count: int, k: int, most: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    if math.comb(count, k) <= most:
        return list(combinations(range(count), k))
    order = rng.random((most, count)).argsort(axis=1)[:, :k]
    return [tuple(row) for row in order.tolist()]


def _majority(votes: Sequence[str | None]) -> float:
    tally = Counter(vote for vote in votes if vote is not None)
    if not tally:
        return 0.0
    most = max(tally.values())
    winners = [vote for vote, count in tally.items() if count == most]
    return 1 / len(winners) if "correct" in winners else 0.0
