"""Resample-on-correct: the shares it keeps, and how often each row is kept against all orders of drawing."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rl.objective.resampling import code_penalty, resample_on_correct
from tasks.shared.traces.trajectory import CodeCall


def call(status: str) -> CodeCall:
    return CodeCall("print(1)", status, "", 0.1, 0, 0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def test_the_penalty_is_the_share_of_failed_blocks() -> None:
    assert code_penalty([call("ok"), call("error"), call("output_cut"), call("timeout")]) == 0.5
    assert code_penalty([call("ok")]) == 0.0
    assert code_penalty([]) == 0.5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=16), st.integers(0, 99))
def test_half_is_kept_with_the_shares_of_right_and_wrong(rows: list[tuple[bool, bool]], seed: int) -> None:
    correct, valid = (np.array(column) for column in zip(*rows, strict=True))
    num_kept = max(1, len(rows) // 2)
    keep = resample_on_correct(correct, np.linspace(0, 1, len(rows)), valid, num_kept, rng(seed))
    assert not (keep & ~valid).any()
    assert keep.sum() == min(num_kept, valid.sum())
    right, wrong = (correct & valid).sum(), (~correct & valid).sum()
    kept_right, kept_wrong = (keep & correct).sum(), (keep & ~correct).sum()
    if right and wrong and num_kept > 1:
        assert kept_right and kept_wrong
    if min(kept_right, kept_wrong) > 1:
        assert abs(kept_right - right * keep.sum() / (right + wrong)) <= 0.5


def chance_of_each(weights: list[float], num_drawn: int) -> np.ndarray:
    """By enumeration: how often each is among `num_drawn`, drawn one after the other in proportion to its weight."""
    chances = np.zeros(len(weights))
    for order in permutations(range(len(weights)), num_drawn):
        chance, left = 1.0, sum(weights)
        for index in order:
            chance *= weights[index] / left
            left -= weights[index]
        chances[list(order)] += chance
    return chances


def test_right_answers_with_clean_code_are_kept_more_often() -> None:
    penalties = np.array([0.0, 0.5, 1.0, 0.25, 0.0, 1.0])
    correct = np.array([True, True, True, True, False, False])
    expected = [*chance_of_each([1 / (p + 0.1) for p in penalties[:4]], 2), 0.5, 0.5]
    generator, times = rng(7), 4000
    counts = sum(
        resample_on_correct(correct, penalties, np.ones(6, dtype=bool), 3, generator).astype(int)
        for _ in range(times)
    )
    assert counts / times == pytest.approx(np.array(expected), abs=0.03)  # 4 standard errors
    assert counts[0] > counts[3] > counts[1] > counts[2]


def test_the_same_generator_keeps_the_same_rows() -> None:
    arguments = (np.arange(8) % 2 == 0, np.linspace(0, 1, 8), np.ones(8, dtype=bool), 4)
    assert (resample_on_correct(*arguments, rng(3)) == resample_on_correct(*arguments, rng(3))).all()
