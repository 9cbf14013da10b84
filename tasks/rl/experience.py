"""Turns trajectories into the experience of an update: graded, filtered, with advantages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import SupportsIndex

import numpy as np

from tasks.rl.objective.advantages import advantages
from tasks.rl.objective.filters import has_void_turn, is_outage, teaches
from tasks.rl.objective.resampling import code_penalty, format_penalty, resample_on_correct
from tasks.rl.objective.rewards import reward
from tasks.rl.problems import RlProblem
from tasks.rl.reward_function import Response, RewardFunction
from tasks.rl.spec import RlStage
from tasks.shared.grading import grade
from tasks.shared.traces.dialect import dialect_of
from tasks.shared.traces.trajectory import FinishReason, Trajectory


@dataclass(frozen=True, slots=True)
class Graded:
    """One trajectory and its reward."""

    trajectory: Trajectory
    group: int  # place of its problem in the step
    family: str
    correct: bool
    reason: str  # a GradeReason value, "outage" where the sandbox failed
    outcome: float  # the answer's own score; 0 for outages
    reward: float  # the outcome minus penalties


@dataclass(frozen=True, slots=True)
class Experience:
    """The N trajectories of one step, in the order of group and sample; N is 0 in every rank but the first."""

    graded: tuple[Graded, ...]
    outage: np.ndarray  # (N,) bool: the sandbox failed
    void_turn: np.ndarray  # (N,) bool: a turn has neither a whole block nor an answer
    in_loss: np.ndarray  # (N,) bool
    advantages: np.ndarray  # (N,) float64, 0 for outages
    dropped: np.ndarray  # (N,) bool: dropped by resample-on-correct, out of baseline and loss
    token_advantages: tuple[np.ndarray, ...] | None = None  # (R,) each, with a critic

    def trajectory(self, index: SupportsIndex) -> Trajectory:
        """The trajectory at `index`."""
        return self.graded[index].trajectory


def score(
    trajectories: Sequence[Trajectory],
    problems: Sequence[RlProblem],
    config: RlStage,
    judge: RewardFunction | None = None,
) -> list[Graded]:
    """Grade and reward each trajectory; return them in the order of group and sample.

    `judge` scores answers in place of +1 and -1; it is not asked about outages.
    """
    place = {problem.id: group for group, problem in enumerate(problems)}
    ordered = sorted(trajectories, key=lambda trajectory: (place[trajectory.problem_id], trajectory.sample))
    graded = [_grade(t, place[t.problem_id], problems[place[t.problem_id]], config) for t in ordered]
    if judge is None:
        return graded
    asked = [row for row in graded if not is_outage(row.trajectory)]
    outcomes = iter(judge([_response(row, problems[row.group]) for row in asked]))
    return [
        row
        if is_outage(row.trajectory)
        else replace(row, outcome=(outcome := next(outcomes)), reward=row.reward - row.outcome + outcome)
        for row in graded
    ]


def _response(row: Graded, problem: RlProblem) -> Response:
    """A trajectory in the form that a reward function receives."""
    trajectory = row.trajectory
    return {
        "problem_id": problem.id,
        "problem": problem.text,
        "answer": problem.answer,
        "response": trajectory.text,
        "own_words": trajectory.own_words,
        "correct": row.correct,
        "finish": trajectory.finish.value,
        "tokens": len(trajectory.response_ids),
        "calls": [
            {"code": call.code, "status": call.status, "output": call.observation}
            for call in trajectory.calls
        ],
    }


def _grade(trajectory: Trajectory, group: int, problem: RlProblem, config: RlStage) -> Graded:
    if is_outage(trajectory):
        return Graded(trajectory, group, problem.family, False, "outage", 0.0, 0.0)
    verdict = grade(trajectory.own_words, problem.answer, trajectory.finish is FinishReason.LENGTH)
    outcome = 1.0 if verdict.correct else -1.0  # of ReTool and ToRL
    value = reward(outcome, trajectory, config.generation.max_response_tokens, config.rl)
    return Graded(trajectory, group, problem.family, verdict.correct, verdict.reason.value, outcome, value)


def build_experience(
    graded: Sequence[Graded], config: RlStage, decode: Callable[[Sequence[int]], str], seed: int
) -> Experience:
    """Filter, then compute advantages. A void turn is left out of the loss but counts in the baseline.

    An outage is left out of both. `seed` decides what resample-on-correct keeps. With PPO the advantages are 0 until
    the critic has computed its values.
    """
    dialect = dialect_of(config.traces)
    rewards = np.array([row.reward for row in graded])
    outcomes = np.array([row.outcome for row in graded])
    groups = np.array([row.group for row in graded])
    outage = np.array([is_outage(row.trajectory) for row in graded], dtype=bool)
    void_turn = (
        np.array([has_void_turn(row.trajectory, dialect, decode) for row in graded], dtype=bool) & ~outage
    )
    kept = ~outage
    if config.rl.resample_on_correct:
        kept = _resampled(graded, groups, kept, config, seed)
    in_loss = kept.copy()
    if config.rl.filter_void_turns:
        in_loss &= ~void_turn
    if config.rl.drop_equal_rewards:
        in_loss &= teaches(outcomes, groups, kept)
    algorithm = config.rl.algorithm
    result = np.zeros(len(graded)) if algorithm == "ppo" else advantages(rewards, groups, kept, algorithm)
    return Experience(tuple(graded), outage, void_turn, in_loss, result, dropped=~outage & ~kept)


def _resampled(
    graded: Sequence[Graded], groups: np.ndarray, valid: np.ndarray, config: RlStage, seed: int
) -> np.ndarray:
    """(N,) bool: `rl.samples_per_prompt` rows of each group; correct ones with clean code are preferred."""
    generator = np.random.Generator(np.random.Philox(seed))
    correct = np.array([row.correct for row in graded])
    penalties = np.array([_penalty(row.trajectory, config) for row in graded])
    kept = np.zeros_like(valid)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        kept[rows] = resample_on_correct(
            correct[rows], penalties[rows], valid[rows], config.rl.samples_per_prompt, generator
        )
    return kept


def _penalty(trajectory: Trajectory, config: RlStage) -> float:
    """The penalty of a correct answer: for failing code and, if the recipe says so, for its form."""
    penalty = code_penalty(trajectory.calls)
    if config.rl.resample_format_penalty:
        answers = dialect_of(config.traces).count_answers(trajectory.own_words)
        penalty += format_penalty(answers, len(trajectory.calls) + 1)
    return penalty
