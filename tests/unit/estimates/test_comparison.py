"""The paired comparison against SciPy and against simulation."""

import numpy as np
import pytest
from scipy import stats

from tasks.shared.estimates.accuracy import Evaluation, Outcome, problem_means
from tasks.shared.estimates.comparison import compare, needed_samples, sign_test


def evaluation(chances: np.ndarray, samples: int, rng: np.random.Generator) -> Evaluation:
    """Samples of problems solved with the given chances."""
    return {
        f"p{i}": [Outcome(bool(hit), None) for hit in rng.random(samples) < p] for i, p in enumerate(chances)
    }


def test_difference_and_interval_are_those_of_the_paired_t_test() -> None:
    """The order of problems does not matter, the pairing does."""
    rng = np.random.default_rng(0)
    chances = rng.beta(0.7, 0.7, 40)
    before, after = evaluation(chances, 16, rng), evaluation(np.clip(chances + 0.1, 0, 1), 16, rng)
    shuffled = dict(sorted(after.items(), reverse=True))
    result = compare(before, shuffled)
    reference = stats.ttest_rel(problem_means(after), problem_means(before)).confidence_interval(0.95)
    assert (result.difference.interval.low, result.difference.interval.high) == pytest.approx(
        tuple(reference)
    )
    change = problem_means(after) - problem_means(before)
    assert (result.better, result.worse, result.equal) == (
        (change > 0).sum(),
        (change < 0).sum(),
        (change == 0).sum(),
    )
    assert result.significant


def test_other_problems_are_refused() -> None:
    """A difference over different problems has no meaning."""
    one = {"a": [Outcome(True, "1")], "b": [Outcome(True, "1")]}
    with pytest.raises(ValueError, match="'b' is in one evaluation only"):
        compare(one, {"a": [Outcome(True, "1")]})


def test_the_same_evaluation_twice_is_no_difference() -> None:
    """Nothing changed: p = 1, not significant."""
    one = {str(i): [Outcome(i % 2 == 0, None)] for i in range(6)}
    result = compare(one, one)
    assert (result.difference.value, result.sign_p, result.significant) == (0.0, 1.0, False)


@pytest.mark.parametrize(("better", "worse"), [(9, 1), (3, 3), (0, 5), (14, 7)])
def test_sign_test_is_the_exact_binomial(better: int, worse: int) -> None:
    """Against SciPy."""
    assert sign_test(better, worse) == pytest.approx(stats.binomtest(better, better + worse).pvalue)


def test_needed_samples_give_the_power_they_promise() -> None:
    """Simulated: with that many samples per problem a true difference of 0.08 is found in about 80 of 100 pairs."""
    rng = np.random.default_rng(2)
    chances = rng.uniform(0.2, 0.8, 60)
    pilot = needed_samples(evaluation(chances, 64, rng), evaluation(chances + 0.08, 64, rng), 0.08)
    assert pilot.samples_per_problem is not None
    found = sum(
        compare(
            evaluation(chances, pilot.samples_per_problem, rng),
            evaluation(chances + 0.08, pilot.samples_per_problem, rng),
        ).significant
        for _ in range(200)
    )
    assert 0.68 <= found / 200 <= 0.92


def test_samples_do_not_help_where_problems_disagree() -> None:
    """Half the problems gain, half lose: only more problems can show a small mean difference."""
    rng = np.random.default_rng(3)
    before = evaluation(np.full(20, 0.5), 32, rng)
    after = evaluation(np.where(np.arange(20) % 2, 0.9, 0.1), 32, rng)
    size = needed_samples(before, after, 0.05)
    assert size.samples_per_problem is None and size.problems > 200
    with pytest.raises(ValueError, match="must be positive"):
        needed_samples(before, after, 0.0)
