"""95 % intervals of a mean over problems: closed form (Student's t) and cluster bootstrap.

The problem is the unit: samples of one problem are correlated, so 30 problems x 32 samples are 30 observations, not
960. Functions take one value a problem and broadcast over leading axes. Numpy only.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided interval with its level. Example: `Interval(0.41, 0.62, 0.95)`."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems with both intervals."""

    value: float
    interval: Interval  # closed form
    bootstrap: Interval
    num_problems: int


@lru_cache(maxsize=64)
def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t with `freedom` degrees, by bisection on its distribution function (error < 1e-9)."""
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(
            f"t quantile: probability {probability} must lie in (0, 1), degrees {freedom} be at least 1"
        )
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while t_distribution(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_distribution(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def t_distribution(value: float, freedom: int) -> float:
    """P(T <= value), by the finite series in the angle atan(t / sqrt(n)) (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(value / math.sqrt(freedom))
    cosine_squared = math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for step in range(odd + 1, freedom, 2):  # step: 2, 4, ... or 1, 3, ...
        total += term
        term *= cosine_squared * step / (step + 1)
    if odd:
        inner = 2 / math.pi * (angle + math.sin(angle) * total)
    else:
        inner = math.sin(angle) * total
    return 0.5 + 0.5 * inner


def t_interval(values: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Low and high of the mean of `values` (..., problems), with the standard error from the spread between problems.

    For a single problem, which has no spread, the interval is infinite. Not clipped to a range: the caller does that.
    """
    count = values.shape[-1]
    mean = values.mean(axis=-1)
    if count < 2:
        return np.full_like(mean, -np.inf), np.full_like(mean, np.inf)
    margin = t_quantile(0.5 + level / 2, count - 1) * values.std(axis=-1, ddof=1) / math.sqrt(count)
    return mean - margin, mean + margin


def bootstrap_interval(
    values: Array, level: float = 0.95, num_resamples: int = 4000, seed: int = 0
) -> tuple[Array, Array]:
    """Low and high of the mean by drawing problems with replacement; `values` (..., problems).

    Expanded percentiles (Hesterberg 2015, arXiv 1411.5279, section 5.3): plain ones are too narrow by the factor
    sqrt((n-1)/n) and by z against t, which shows at thirty problems.
    """
    count = values.shape[-1]
    if count < 2:
        return t_interval(values, level)
    means = values @ _resampling_weights(count, num_resamples, seed)  # (..., resamples)
    tail = NormalDist().cdf(-math.sqrt(count / (count - 1)) * t_quantile(0.5 + level / 2, count - 1))
    low, high = np.quantile(means, [tail, 1 - tail], axis=-1)
    return low, high


@lru_cache(maxsize=2)  # an evaluation needs the same one many times (every k of pass@k)
def _resampling_weights(count: int, num_resamples: int, seed: int) -> Array:
    """How often each problem is drawn, over their number, (problems, resamples)."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=num_resamples)
    return draws.T / count


def estimate(values: Array, level: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
    """The mean of one value a problem, (problems,), with both intervals inside `bounds`.

    If all problems agree (accuracy 0, or no problem changed), the spread of 0 gives no interval. Then the share of
    problems that may differ is bounded by (1 - share)^problems >= (1 - level)/2, and these may lie at either bound. At
    accuracy 0 this is the exact binomial interval over problems. ValueError without a problem.
    """
    if values.size == 0:
        raise ValueError(
            "an estimate needs at least one problem; every sample of this set is an outage or missing"
        )
    low, high = bounds
    value, count = float(values.mean()), int(values.size)
    if np.all(values == values[0]):
        share = 1 - ((1 - level) / 2) ** (1 / count)
        interval = bootstrap = Interval(value - share * (value - low), value + share * (high - value), level)
    else:
        interval = _clipped(t_interval(values, level), bounds, level)
        bootstrap = _clipped(bootstrap_interval(values, level), bounds, level)
    return Estimate(value, interval, bootstrap, count)


def _clipped(ends: tuple[Array, Array], bounds: tuple[float, float], level: float) -> Interval:
    low, high = np.clip(ends, *bounds)
    return Interval(float(low), float(high), level)
