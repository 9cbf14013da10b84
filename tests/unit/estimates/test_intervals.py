"""Intervals against SciPy, their coverage, and edge cases."""

import math

import numpy as np
import pytest
from scipy import stats

from tasks.shared.estimates.intervals import (
    bootstrap_interval,
    estimate,
    t_distribution,
    t_interval,
    t_quantile,
)

DIFFICULTIES = [
    (0.5, 0.5),
    (1.0, 3.0),
    (2.0, 2.0),
    (0.4, 1.2),
]  # beta distributions of the problems' accuracies


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 29, 30, 499])
def test_student_t_is_scipys(freedom: int) -> None:
    """Quantiles and distribution function agree with an independent implementation."""
    for probability in (0.01, 0.3, 0.6, 0.975, 0.995):
        assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9)
    for value in (-3.0, -0.2, 0.0, 1.0, 12.0):
        assert t_distribution(value, freedom) == pytest.approx(stats.t.cdf(value, freedom), abs=1e-12)


def test_closed_form_is_scipys_interval_of_a_mean() -> None:
    """The interval of the mean over problems."""
    values = np.random.default_rng(3).random(30)
    low, high = t_interval(values)
    expected = stats.t.interval(0.95, 29, loc=values.mean(), scale=stats.sem(values))
    assert (float(low), float(high)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("a", "b"), DIFFICULTIES)
def test_95_percent_intervals_cover_93_to_97_percent(a: float, b: float) -> None:
    """2,000 evaluations of 30 problems x 32 samples with newly drawn problems: both intervals keep their level."""
    rng = np.random.default_rng(11)
    chances = rng.beta(a, b, size=(2000, 30))
    means = rng.binomial(32, chances) / 32
    truth = a / (a + b)
    for low, high in (t_interval(means), bootstrap_interval(means, num_resamples=2000)):
        coverage = float(np.mean((low <= truth) & (truth <= high)))
        assert 0.93 <= coverage <= 0.97


def test_pooled_samples_cover_too_little() -> None:
    """Why the problem is the unit: 960 pooled samples cover about half of the time."""
    rng = np.random.default_rng(11)
    means = rng.binomial(32, rng.beta(0.5, 0.5, size=(2000, 30))) / 32
    pooled = means.mean(axis=1)
    margin = 1.96 * np.sqrt(pooled * (1 - pooled) / (30 * 32))
    assert np.mean(np.abs(pooled - 0.5) <= margin) < 0.6


def test_accuracy_zero_has_an_upper_end() -> None:
    """None of 30 problems solved: up to 11.6 % is compatible, as exact binomial over problems says."""
    result = estimate(np.zeros(30))
    assert (result.value, result.interval.low) == (0.0, 0.0)
    assert result.interval.high == pytest.approx(stats.binomtest(0, 30).proportion_ci().high)
    full = estimate(np.ones(30)).interval
    assert (full.low, full.high) == (pytest.approx(1 - result.interval.high), 1.0)


def test_edges_of_intervals() -> None:
    """One problem gives a wide interval, no problem is an error, ends stay in bounds."""
    single = estimate(np.array([0.5])).interval
    assert single.low < 0.02 and single.high > 0.98
    unchanged = estimate(np.zeros(40), bounds=(-1.0, 1.0)).interval
    assert (unchanged.low, unchanged.high) == (
        pytest.approx(-0.0881, abs=1e-4),
        pytest.approx(0.0881, abs=1e-4),
    )
    with pytest.raises(ValueError, match="at least one problem"):
        estimate(np.array([]))
    skewed = estimate(np.array([0.0] * 9 + [1.0]))
    assert skewed.interval.low == 0.0 < skewed.interval.high


def test_bootstrap_is_reproducible_and_near_the_closed_form() -> None:
    """Same seed, same ends; at 200 problems the two intervals agree to a few hundredths of their width."""
    values = np.random.default_rng(5).random(200)
    low, high = bootstrap_interval(values, seed=1)
    again = bootstrap_interval(values, seed=1)
    assert (float(low), float(high)) == (float(again[0]), float(again[1]))
    closed = t_interval(values)
    width = float(closed[1] - closed[0])
    assert math.isclose(float(low), float(closed[0]), abs_tol=0.06 * width)
    assert math.isclose(float(high), float(closed[1]), abs_tol=0.06 * width)
