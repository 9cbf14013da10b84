"""Sampling of a step: groups of equal rewards are replaced up to a number of attempts; no sample is lost."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tasks.rl import sampling
from tasks.rl.config import RlConfig
from tasks.rl.metrics import PhaseClock
from tasks.rl.problems import RlProblem, draw_others, draw_problems
from tasks.rl.sampling import Sampler, num_teaching
from tasks.rl.spec import RlStage
from tasks.shared.config import GenerationConfig, ModelConfig, SandboxConfig, TracesConfig
from tasks.shared.generation.interleave import RolloutRequest
from tasks.shared.traces.trajectory import FinishReason, Trajectory

PROBLEMS = [RlProblem(f"p{i}", "1", "", (1, 2)) for i in range(12)]


def collect(
    monkeypatch: pytest.MonkeyPatch, mixed: set[str], attempts: int, **rl: Any
) -> tuple[list[Any], list[int]]:
    """Sample four groups; a group has both rewards if its problem is in `mixed`. Returns rows and requests per pass."""
    passes: list[int] = []

    def scripted(requests: Iterable[RolloutRequest], *_: object) -> Iterator[Trajectory]:
        asked = list(requests)
        passes.append(len(asked))
        for request in reversed(asked):  # in another order than requested
            right = request.problem_id in mixed and request.sample == 0
            text = "\\boxed{1}" if right else "\\boxed{2}"
            yield Trajectory(
                request.problem_id,
                request.sample,
                (1, 2),
                (3,),
                (True,),
                (-0.5,),
                (),
                FinishReason.EOS,
                text,
                text,
            )

    monkeypatch.setattr(sampling, "rollout", scripted)
    config = RlStage(
        model=ModelConfig(source="tiny"),
        traces=TracesConfig(),
        sandbox=SandboxConfig(),
        generation=GenerationConfig(),
        rl=RlConfig(prompts_per_step=4, samples_per_prompt=2, resample_attempts=attempts, **rl),
    )
    nothing: Any = None
    sampler = Sampler(
        config,
        nothing,
        problems=PROBLEMS,
        generator=nothing,
        tool=None,
        tokenizer=nothing,
        seed=3,
        judge=None,
    )
    return sampler.collect(0, 5, PhaseClock()), passes


def first_four() -> list[str]:
    return [problem.id for problem in draw_problems(PROBLEMS, 4, 0, 5)]


def test_groups_of_equal_rewards_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the first four have both rewards, as does every other problem: two more groups suffice."""
    dull = first_four()[:2]
    graded, passes = collect(monkeypatch, {problem.id for problem in PROBLEMS} - set(dull), attempts=5)
    assert passes == [8, 4]
    assert num_teaching(graded) == 4
    assert [(row.group, row.trajectory.sample) for row in graded] == [
        (g, s) for g in range(6) for s in range(2)
    ]
    ids = [row.trajectory.problem_id for row in graded[::2]]
    assert ids[:4] == first_four() and len(set(ids)) == 6
    again, _ = collect(monkeypatch, {problem.id for problem in PROBLEMS} - set(dull), attempts=5)
    assert [row.trajectory.problem_id for row in again] == [row.trajectory.problem_id for row in graded]


def test_attempts_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    graded, passes = collect(monkeypatch, set(), attempts=2)
    assert passes == [8, 8] and num_teaching(graded) == 0


def test_without_problems_left_sampling_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    graded, passes = collect(monkeypatch, set(), attempts=9)
    assert passes == [8, 8, 8] and len({row.group for row in graded}) == 12


def test_without_attempts_left_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert collect(monkeypatch, set(), attempts=1)[1] == [8]


def test_resample_on_correct_samples_twice_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert collect(monkeypatch, set(), attempts=1, resample_on_correct=True)[1] == [16]


def test_replacements_are_new_and_depend_on_the_attempt() -> None:
    tried = PROBLEMS[:4]
    drawn = [draw_others(PROBLEMS, 5, tried, step=1, attempt=attempt, seed=2) for attempt in (1, 2)]
    assert drawn[0] != drawn[1]
    for others in drawn:
        assert len({problem.id for problem in others} - {problem.id for problem in tried}) == 5
    assert len(draw_others(PROBLEMS, 50, tried, 1, 1, 2)) == 8
