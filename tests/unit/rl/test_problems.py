"""The data cursor: which problems a step draws."""

from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rl.config import RlConfig
from tasks.rl.problems import RlProblem, draw_problems, read_problems, require_problems, sample_seed
from tasks.rl.spec import RlStage
from tasks.shared.config import GenerationConfig, ModelConfig, SandboxConfig, TracesConfig
from tests.unit.generation.tiny import tiny_tokenizer


def world(count: int) -> list[RlProblem]:
    return [RlProblem(f"p{i}", "1", "", (1, 2)) for i in range(count)]


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


def test_a_round_samples_the_sets_that_it_names(tmp_path: Path) -> None:
    rows = [
        {"id": f"{name}/0", "problem": "1?", "answer": "1", "source": name, "family": ""}
        for name in ("a", "b")
    ]
    pandas.DataFrame(rows).to_parquet(tmp_path / "train.parquet")

    def read(*sets: str) -> list[str]:
        config = RlStage(
            model=ModelConfig(source="tiny"),
            traces=TracesConfig(),
            sandbox=SandboxConfig(),
            generation=GenerationConfig(),
            rl=RlConfig(problems=sets),
        )
        return [problem.id for problem in read_problems(tmp_path, tiny_tokenizer(), config)[0]]

    assert read() == ["a/0", "b/0"] and read("b") == ["b/0"]
    with pytest.raises(ValueError, match=r"rl.problems: no problem is of c; .* has a, b"):
        read("c")


def test_epochs_have_orders_of_their_own() -> None:
    problems = world(24)
    orders = {tuple(p.id for p in draw_problems(problems, 24, epoch, 5)) for epoch in range(6)}
    assert len(orders) == 6


def test_sample_seeds_differ() -> None:
    seeds = {
        sample_seed(*key) for key in [(1, 2, 3, 4), (2, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5)]
    }
    assert len(seeds) == 5
