"""The data cursor: which problems a step draws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rl.problems import Problem, draw_problems, require_problems, sample_seed


def world(count: int) -> list[Problem]:
    return [Problem(f"p{i}", "1", "", (1, 2)) for i in range(count)]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 10**6))
def test_an_epoch_draws_no_problem_twice(total: int, count: int, seed: int) -> None:
    problems = world(total)
    if count > total:
        with pytest.raises(ValueError, match="lower it"):
            require_problems(problems, count)
        return
    require_problems(problems, count)
    steps = total // count
    drawn = [problem.id for step in range(steps) for problem in draw_problems(problems, count, step, seed)]
    assert len(drawn) == len(set(drawn)) == steps * count
    again = [problem.id for step in range(steps) for problem in draw_problems(problems, count, step, seed)]
    assert drawn == again


def test_epochs_have_orders_of_their_own() -> None:
    problems = world(24)
    orders = {tuple(p.id for p in draw_problems(problems, 24, epoch, 5)) for epoch in range(6)}
    assert len(orders) == 6


def test_sample_seeds_differ() -> None:
    seeds = {
        sample_seed(*key) for key in [(1, 2, 3, 4), (2, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5)]
    }
    assert len(seeds) == 5
