"""avg@k, pass@k, maj@k and the variance split against independent references on random data."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from tasks.shared.estimates.accuracy import Evaluation, Outcome, avg_at_k, maj_at_k, pass_at_k, variance_split


def random_evaluation(seed: int, problems: int = 8, samples: int = 6) -> Evaluation:
    """Answers among a few values, one of them right, some missing."""
    rng = np.random.default_rng(seed)
    evaluation = {}
    for problem in range(problems):
        answers = rng.choice(["7", "8", "9", None], size=samples, p=rng.dirichlet([1, 1, 1, 0.5]))
        evaluation[str(problem)] = [Outcome(answer == "7", answer) for answer in answers]
    return evaluation


@pytest.mark.parametrize("seed", range(5))
def test_avg_at_k_is_the_mean_of_means(seed: int) -> None:
    """Every problem has the same weight, also with unequal numbers of samples."""
    evaluation = dict(random_evaluation(seed))
    evaluation["0"] = evaluation["0"][:2]
    expected = np.mean([sum(o.correct for o in samples) / len(samples) for samples in evaluation.values()])
    assert avg_at_k(evaluation).value == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_pass_at_k_is_the_share_of_subsets_with_a_hit(seed: int) -> None:
    """For every k up to n: all subsets enumerated."""
    evaluation = random_evaluation(seed)
    for k in range(1, 7):
        per_problem = [
            np.mean([any(o.correct for o in subset) for subset in combinations(samples, k)])
            for samples in evaluation.values()
        ]
        assert pass_at_k(evaluation, k).value == pytest.approx(np.mean(per_problem))


@pytest.mark.parametrize("seed", range(5))
def test_maj_at_k_is_the_share_of_subsets_whose_majority_is_right(seed: int) -> None:
    """For every k up to n: all subsets enumerated, ties shared, no vote without an answer."""
    evaluation = random_evaluation(seed)
    for k in range(1, 7):
        per_problem = []
        for samples in evaluation.values():
            scores = []
            for subset in combinations(samples, k):
                tally = Counter(o.predicted for o in subset if o.predicted)
                best = [answer for answer, n in tally.items() if n == max(tally.values())]
                scores.append(1 / len(best) if "7" in best else 0.0)
            per_problem.append(np.mean(scores))
        assert maj_at_k(evaluation, k).value == pytest.approx(np.mean(per_problem))


def test_maj_at_k_by_random_subsets_is_near_the_exact_value() -> None:
    """Where there are too many subsets to count."""
    evaluation = random_evaluation(1, samples=12)
    exact = maj_at_k(evaluation, 6, num_subsets=1000).value
    assert maj_at_k(evaluation, 6, num_subsets=500).value == pytest.approx(exact, abs=0.02)
    assert maj_at_k(evaluation, 6, seed=4, num_subsets=500) == maj_at_k(
        evaluation, 6, seed=4, num_subsets=500
    )


def test_k_beyond_the_samples_is_refused() -> None:
    """No estimate is made up."""
    with pytest.raises(ValueError, match="k = 7 needs that many samples"):
        pass_at_k(random_evaluation(0), 7)
    with pytest.raises(ValueError, match="k = 0"):
        maj_at_k(random_evaluation(0), 0)


def test_variance_split_finds_the_components() -> None:
    """Beta(2, 3) difficulties: between = 0.04, within = E[p(1-p)] = 0.2; their sum is the variance of one sample."""
    rng = np.random.default_rng(0)
    chances = rng.beta(2, 3, size=4000)
    evaluation = {
        str(i): [Outcome(bool(hit), None) for hit in rng.random(8) < chance]
        for i, chance in enumerate(chances)
    }
    split = variance_split(evaluation)
    assert split.between == pytest.approx(0.04, abs=0.003)
    assert split.within == pytest.approx(0.20, abs=0.005)
    assert split.standard_error == pytest.approx(((0.04 + 0.2 / 8) / 4000) ** 0.5, rel=0.05)


def test_equal_problems_have_no_spread_between() -> None:
    """Noise explains the whole spread: the component is zero, not negative."""
    alternating = {str(i): [Outcome(j % 2 == 0, None) for j in range(4)] for i in range(5)}
    assert variance_split(alternating).between == 0.0
