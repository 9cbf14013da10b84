"""Advantages against a loop in plain Python."""

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rl.objective.advantages import Algorithm, advantages

rows = st.lists(
    st.tuples(st.sampled_from([-1.0, -0.5, 1.0, 0.25]), st.integers(0, 3), st.booleans()),
    min_size=1,
    max_size=24,
)


def slow(rewards: list[float], groups: list[int], valid: list[bool], algorithm: Algorithm) -> list[float]:
    result = []
    for i, reward in enumerate(rewards):
        if not valid[i]:
            result.append(0.0)
            continue
        everyone = [r for r, ok in zip(rewards, valid, strict=True) if ok]
        group = [r for r, g, ok in zip(rewards, groups, valid, strict=True) if ok and g == groups[i]]
        others = [
            r
            for j, (r, g, ok) in enumerate(zip(rewards, groups, valid, strict=True))
            if ok and g == groups[i] and j != i
        ]
        if algorithm == "grpo":
            result.append((reward - statistics.fmean(group)) / (statistics.pstdev(group) + 1e-6))
        elif algorithm == "dr_grpo":
            result.append(reward - statistics.fmean(group))
        elif algorithm == "rloo":
            result.append(reward - statistics.fmean(others) if others else 0.0)
        else:
            result.append(reward - statistics.fmean(everyone))
    return result


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "rloo", "reinforce"])
@settings(max_examples=100, deadline=None)
@given(drawn=rows)
def test_advantages_match_the_slow_reference(
    algorithm: Algorithm, drawn: list[tuple[float, int, bool]]
) -> None:
    rewards, groups, valid = (list(column) for column in zip(*drawn, strict=True))
    fast = advantages(np.array(rewards), np.array(groups), np.array(valid), algorithm)
    # equal rewards have deviation 0 up to rounding, which 1e-6 in the denominator magnifies
    assert fast.tolist() == pytest.approx(slow(rewards, groups, valid, algorithm), abs=1e-8)


def test_an_outage_leaves_the_baseline() -> None:
    """Rewards 1, -1 and an invalid -1: the baseline is 0, not -1/3."""
    result = advantages(
        np.array([1.0, -1.0, -1.0]), np.zeros(3, int), np.array([True, True, False]), "dr_grpo"
    )
    assert result.tolist() == [1.0, -1.0, 0.0]
