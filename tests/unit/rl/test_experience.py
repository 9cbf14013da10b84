"""Scoring, filters and advantages of one step, on written-out trajectories."""

from dataclasses import replace

import numpy as np
import pytest

from tasks.rl.config import RlConfig
from tasks.rl.experience import build_experience, score
from tasks.rl.metrics import learning_metrics
from tasks.rl.objective.losses import PolicySums
from tasks.rl.probe import Gap
from tasks.rl.problems import RlProblem
from tasks.rl.spec import RlStage
from tasks.rl.update import PolicyInputs, UpdateResult, train_sequence
from tasks.shared.config import GenerationConfig, ModelConfig, SandboxConfig, TracesConfig
from tasks.shared.traces.trajectory import NOTICE, CodeCall, FinishReason, Trajectory

PROBLEMS = [RlProblem("a", "5", "sums", (1, 2), "What is 2 + 3?"), RlProblem("b", "7", "", (3,))]


def stage(**rl: object) -> RlStage:
    return RlStage(
        model=ModelConfig(source="tiny"),
        traces=TracesConfig(),
        sandbox=SandboxConfig(),
        generation=GenerationConfig(max_response_tokens=100),
        rl=RlConfig(**rl),  # type: ignore[arg-type]
    )


def make_trajectory(
    problem: str, sample: int, text: str, finish: FinishReason = FinishReason.EOS, feedback: str = ""
) -> Trajectory:
    """Ids are code points; with `feedback`, `text` has it after its first word."""
    ids = tuple(ord(c) for c in text)
    calls: tuple[CodeCall, ...] = ()
    sampled = [True] * len(ids)
    if feedback:
        start = text.index(feedback)
        calls = (CodeCall("print(5)", "ok", feedback, 0.1, start, start + len(feedback)),)
        sampled[start : start + len(feedback)] = [False] * len(feedback)
    logprobs = tuple(-0.5 if s else 0.0 for s in sampled)
    return Trajectory(problem, sample, (1, 2), ids, tuple(sampled), logprobs, calls, finish, text, text)


def decode(ids: tuple[int, ...]) -> str:
    return "".join(chr(i) for i in ids)


TRAJECTORIES = [
    make_trajectory("b", 1, "\\boxed{7}"),
    make_trajectory("a", 2, "no idea"),  # void
    make_trajectory("a", 0, "code[5]\\boxed{5}", feedback="[5]"),
    make_trajectory("a", 1, "\\boxed{6}"),
    make_trajectory("b", 0, "\\boxed{07}"),
    make_trajectory("a", 3, "code", FinishReason.SANDBOX_FAILURE),
]


def test_order_grades_and_rewards() -> None:
    graded = score(TRAJECTORIES, PROBLEMS, stage())
    assert [(row.trajectory.problem_id, row.trajectory.sample) for row in graded] == [
        ("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0), ("b", 1),
    ]  # fmt: skip
    assert [row.reward for row in graded] == [1, -1, -1, 0, 1, 1]
    assert [row.reason for row in graded] == ["correct", "wrong", "no_box", "outage", "correct", "correct"]
    assert [row.family for row in graded] == ["sums"] * 4 + [""] * 2


def test_what_is_in_the_loss() -> None:
    """Void: out of the loss, in the baseline. Outage: out of both. Group b: all right, so no gradient."""
    config = stage(algorithm="dr_grpo")
    experience = build_experience(score(TRAJECTORIES, PROBLEMS, config), config, decode, seed=1)
    assert experience.in_loss.tolist() == [True, True, False, False, False, False]
    assert experience.void_turn.tolist() == [False, False, True, False, False, False]
    assert np.allclose(experience.advantages, [4 / 3, -2 / 3, -2 / 3, 0, 0, 0])
    config = stage(filter_void_turns=False, drop_equal_rewards=False)
    experience = build_experience(score(TRAJECTORIES, PROBLEMS, config), config, decode, seed=1)
    assert experience.in_loss.tolist() == [True, True, True, False, True, True]


def test_penalties_alone_keep_no_group() -> None:
    """Group b is all right; one answer is longer than its buffer: its reward differs, and DAPO counts answers."""
    config = stage(overlong_buffer_tokens=95, filter_void_turns=False)
    graded = score(TRAJECTORIES, PROBLEMS, config)
    assert graded[4].reward != graded[5].reward and graded[4].outcome == graded[5].outcome == 1.0
    experience = build_experience(graded, config, decode, seed=1)
    assert experience.in_loss.tolist() == [True, True, True, False, False, False]
    kept = stage(overlong_buffer_tokens=95, drop_equal_rewards=False)
    assert build_experience(graded, kept, decode, seed=1).in_loss[4:].all()


def test_a_response_that_its_feedback_ended_is_overlong() -> None:
    """The output of its block did not fit, so it holds fewer tokens than it was given, and ended for length."""
    config = stage(overlong_buffer_tokens=50)
    ended = [
        make_trajectory("a", i, "code", finish)
        for i, finish in enumerate((FinishReason.LENGTH, FinishReason.EOS))
    ]
    assert [row.reward for row in score(ended, PROBLEMS, config)] == [-2.0, -1.0]


def test_the_form_of_an_answer_weighs_in_resampling() -> None:
    """rStar2: of right answers without failing code, the one that is given once is kept nine times in ten at most."""
    once, twice = "<answer>\\boxed{5}</answer>", "<answer>\\boxed{5}</answer> <answer>\\boxed{5}</answer>"
    rows = [make_trajectory("a", i, text) for i, text in enumerate((once, twice, "no", "no"))]
    for wanted, penalised in ((False, 0.5), (True, 1 / 1.6 / (1 / 0.6 + 1 / 1.6))):
        config = stage(samples_per_prompt=2, resample_on_correct=True, resample_format_penalty=wanted)
        graded = score(rows, PROBLEMS, config)
        chosen = [build_experience(graded, config, decode, seed).dropped[0] for seed in range(300)]
        assert np.mean(chosen) == pytest.approx(penalised, abs=0.09)


def test_a_reward_function_says_what_answers_are_worth() -> None:
    """Its values replace +1 and -1; penalties still apply; it gets no outages; groups are filtered by its values."""
    asked: list[dict[str, object]] = []

    def judge(responses: list[dict[str, object]]) -> list[float]:
        asked.extend(responses)
        return [0.1 * place for place in range(len(responses))]

    config = stage(failed_code_penalty=0.5, filter_void_turns=False)
    failing = replace(TRAJECTORIES[2], calls=(replace(TRAJECTORIES[2].calls[0], status="error"),))
    trajectories = [failing, *TRAJECTORIES[:2], *TRAJECTORIES[3:]]
    graded = score(trajectories, PROBLEMS, config, judge)  # type: ignore[arg-type]
    assert [row.outcome for row in graded] == pytest.approx([0, 0.1, 0.2, 0, 0.3, 0.4])
    assert [row.reward for row in graded] == pytest.approx([-0.5, 0.1, 0.2, 0, 0.3, 0.4])
    assert [row["problem_id"] for row in asked] == ["a", "a", "a", "b", "b"]
    assert (
        asked[0]["correct"] is True and asked[0]["answer"] == "5" and asked[0]["problem"] == "What is 2 + 3?"
    )
    assert asked[0]["calls"] == [{"code": "print(5)", "status": "error", "output": "[5]"}]
    experience = build_experience(graded, config, decode, seed=1)
    assert experience.in_loss.tolist() == [True, True, True, False, True, True]


def test_training_sees_the_sampled_ids_and_mask() -> None:
    trajectory = TRAJECTORIES[2]
    values = {"sampler_logprobs": trajectory.logprobs, "ages": np.arange(len(trajectory.response_ids))}
    sequence = train_sequence(trajectory, PolicyInputs, advantages=1.5, weights=0.25, **values)
    assert tuple(sequence.ids) == (*trajectory.prompt_ids, *trajectory.response_ids)
    assert sequence.loss_mask.tolist() == [False, False, *trajectory.loss_mask]
    assert sequence.per_token.sampler_logprobs.tolist() == [0.0, 0.0, *trajectory.logprobs]
    assert sequence.per_token.advantages.tolist() == [0.0, 0.0] + [1.5] * len(trajectory.response_ids)
    assert sequence.per_token.ages.tolist() == [0.0, 0.0, *range(len(trajectory.response_ids))]


def test_a_block_that_a_notice_answered_is_counted_and_void() -> None:
    config = stage()
    row = make_trajectory("a", 0, "broken[5]\\boxed{5}", feedback="[5]")
    row = replace(row, calls=(replace(row.calls[0], status=NOTICE),), unrecognised=2, self_written=3)
    experience = build_experience(score([row], PROBLEMS, config), config, decode, seed=1)
    assert experience.void_turn.tolist() == [True]
    sums = PolicySums(10, 0.5, 1, 0.2, 0, 4.0, 0.1, 0.0, 0.05, 2)
    metrics = learning_metrics(3, 1, experience, UpdateResult(sums, 0.7, 1e-4, 1, 0, 99), Gap(0.0, 0.0))
    assert (metrics["unrecognised_blocks"], metrics["self_written_feedback"], metrics["notices"]) == (2, 3, 1)
    assert (metrics["code_ratio"], metrics["pass_ratio"]) == (0.0, None)


def test_metrics_leave_outages_out_and_count_them() -> None:
    config = stage()
    experience = build_experience(score(TRAJECTORIES, PROBLEMS, config), config, decode, seed=1)
    sums = PolicySums(10, 0.5, 1, 0.2, 0, 4.0, 0.1, 0.0, 0.05, 2)
    metrics = learning_metrics(3, 1, experience, UpdateResult(sums, 0.7, 1e-4, 1, 0, 99), Gap(0.0, 0.0))
    assert metrics["outages"] == 1
    assert (metrics["unrecognised_blocks"], metrics["self_written_feedback"], metrics["notices"]) == (0, 0, 0)
    assert metrics["accuracy"] == 3 / 5
    assert metrics["executed_code_ratio"] == 1 / 5
    assert metrics["code_ratio"] == 1 / 5, "as in evaluation: a whole block, run or not"
    assert metrics["pass_ratio"] == 1.0
    assert metrics["void_ratio"] == 1 / 5
    assert metrics["solved_all"] == 0.5
    assert metrics["entropy"] == 0.4
    assert metrics["clip_fraction"] == 0.1
    assert metrics["gap_max"] == 0.05
