"""Traces held out of training: whole problems, chosen independently of the others."""

import pytest

from tasks.sft.spec import SftConfig
from tasks.sft.validation import held_out

PROBLEMS = [f"problem {i // 2}" for i in range(400)]  # two traces each


def test_whole_problems_are_held_out() -> None:
    out = held_out(PROBLEMS, 0.1, seed=3)
    assert 0.05 < sum(out) / len(out) < 0.15
    assert all(out[i] == out[i + 1] for i in range(0, len(out), 2))
    assert held_out(PROBLEMS[:100], 0.1, seed=3) == out[:100], "others make no difference"
    assert held_out(PROBLEMS, 0.1, seed=4) != out
    assert not any(held_out(PROBLEMS, 0.0, seed=3))


def test_a_small_share_keeps_one_problem_out_and_never_all() -> None:
    assert sum(held_out(["a", "b", "a", "c"], 1e-9, seed=0)) in (1, 2)
    with pytest.raises(ValueError, match="leaves no trace to train on: all 1 problems"):
        held_out(["a", "a"], 0.5, seed=0)


@pytest.mark.parametrize("one", [{"validation_share": 0.1}, {"evaluate_every_steps": 5}])
def test_share_and_steps_go_together(one: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a validation loss needs both"):
        SftConfig.model_validate(one)
