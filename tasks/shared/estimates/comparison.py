"""Two evaluations on the same problems: difference, interval, sign test, and the samples needed to see a difference.

Paired by problem: the difficulty of a problem is the same on both sides and cancels.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from tasks.shared.estimates.accuracy import Evaluation, problem_means, sampling_variances
from tasks.shared.estimates.intervals import Estimate, estimate


@dataclass(frozen=True, slots=True)
class Comparison:
    """`after` minus `before` on the problems of both."""

    difference: Estimate
    better: int  # problems with a higher share of correct samples after
    worse: int
    equal: int
    sign_p: float  # two-sided exact sign test over the problems that changed

    @property
    def significant(self) -> bool:
        """The interval of the difference excludes zero."""
        return not self.difference.interval.low <= 0 <= self.difference.interval.high


@dataclass(frozen=True, slots=True)
class SampleSize:
    """Samples or problems needed to see a difference with the given power (80 %) at the 95 % level."""

    difference: float
    samples_per_problem: int | None  # with these problems; None if no number is enough
    problems: int  # with these samples a problem


def compare(before: Evaluation, after: Evaluation, level: float = 0.95) -> Comparison:
    """Compare two evaluations problem by problem.

    Raises ValueError if the problems are not the same: a difference over different problems means nothing.
    """
    if set(before) != set(after):
        only = sorted(set(before) ^ set(after))
        raise ValueError(
            f"paired comparison: problem {only[0]!r} is in one evaluation only ({len(only)} such); "
            "evaluate both checkpoints on the same problem set"
        )
    change = problem_means({key: after[key] for key in before}) - problem_means(before)
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    difference = estimate(change, level, bounds=(-1.0, 1.0))
    return Comparison(difference, better, worse, len(change) - better - worse, sign_test(better, worse))


def sign_test(better: int, worse: int) -> float:
    """Two-sided exact p of `better` against `worse` under a fair coin; 1 if nothing changed."""
    total, extreme = better + worse, min(better, worse)
    if total == 0:
        return 1.0
    tail = sum(math.comb(total, count) for count in range(extreme + 1)) / 2**total
    return min(1.0, 2 * tail)


def needed_samples(
    before: Evaluation, after: Evaluation, difference: float, power: float = 0.8
) -> SampleSize:
    """Samples a problem, or problems, needed to see a true mean `difference`, from the variances of these two.

    Variance of the paired difference over m problems, k samples each side: (tau + omega / k) / m, tau the variance of
    the problems' true differences, omega the sum of both within-problem variances. It must not exceed
    (difference / (z_0.975 + z_power))^2. Raises ValueError if `difference` is not positive.
    """
    if difference <= 0:
        raise ValueError(f"needed samples: difference = {difference} must be positive, such as 0.05")
    after = {key: after[key] for key in before}
    change = problem_means(after) - problem_means(before)
    (noise, omega), (more_noise, more_omega) = sampling_variances(before), sampling_variances(after)
    noise, omega = noise + more_noise, omega + more_omega
    spread = float(change.var(ddof=1)) if len(change) > 1 else 0.0
    tau = max(0.0, spread - float(noise.mean()))
    allowed = (difference / (NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(power))) ** 2
    room = allowed * len(change) - tau
    samples = max(1, math.ceil(float(omega.mean()) / room)) if room > 0 else None
    problems = max(2, math.ceil((tau + float(noise.mean())) / allowed))
    return SampleSize(difference, samples, problems)
