"""Rewards, penalties and filters on small written-out cases."""

import numpy as np
import pytest

from tasks.rl.config import RlConfig
from tasks.rl.objective.filters import has_void_turn, is_outage, teaches
from tasks.rl.objective.rewards import overlong_penalty, reward
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.trajectory import CodeCall, FinishReason, Trajectory


def call(status: str, turn_end: int = 4, feedback_end: int = 6) -> CodeCall:
    return CodeCall("print(1)", status, "1", 0.1, turn_end, feedback_end)


def trajectory(
    text: str, calls: tuple[CodeCall, ...] = (), finish: FinishReason = FinishReason.EOS
) -> Trajectory:
    """Ids are code points, so that decoding is chr."""
    ids = tuple(ord(c) for c in text)
    feedback = {i for c in calls for i in range(c.turn_end, c.feedback_end)}
    sampled = tuple(i not in feedback for i in range(len(ids)))
    return Trajectory(
        "p", 0, (1,), ids, sampled, tuple(-0.5 if s else 0.0 for s in sampled), calls, finish, text, text
    )


def decode(ids: tuple[int, ...]) -> str:
    return "".join(chr(i) for i in ids)


def test_overlong_penalty_is_dapos() -> None:
    """DAPO: max 20,480 with a buffer of 4,096."""
    lengths = [0, 16384, 16385, 18432, 20480, 30000]
    values = [overlong_penalty(n, 20480, 4096) for n in lengths]
    assert values == [0.0, 0.0, pytest.approx(-1 / 4096), -0.5, -1.0, -1.0]
    assert overlong_penalty(10**6, 100, 0) == 0.0


@pytest.mark.parametrize(
    ("outcome", "statuses", "penalty", "expected"),
    [
        (1.0, [], 0.5, 1.0),
        (-1.0, ["ok"], 0.5, -1.0),
        (1.0, ["ok", "error"], 0.5, 0.5),
        (1.0, ["timeout"], 0.0, 1.0),
        (-1.0, ["output_cut"], 0.5, -1.0),
    ],
)
def test_reward(outcome: float, statuses: list[str], penalty: float, expected: float) -> None:
    said = trajectory("so 12", tuple(call(status) for status in statuses))
    assert reward(outcome, said, 100, RlConfig(failed_code_penalty=penalty)) == expected


def test_void_turns() -> None:
    retool = DIALECTS["retool"]
    assert not has_void_turn(trajectory("so \\boxed{3}"), retool, decode)
    assert has_void_turn(trajectory("so what"), retool, decode)
    before = "\\boxed{1}"  # an answer before the feedback does not count for the turn after it
    end = len(before)
    assert has_void_turn(trajectory(before + "12 hm", (call("ok", end, end + 2),)), retool, decode)
    assert not has_void_turn(trajectory("code12 \\boxed{3}", (call("ok", 4, 6),)), retool, decode)
    assert has_void_turn(
        trajectory("code\\boxed{1}.", (call("ok", 4, 13),)), retool, decode
    )  # printed by the program, not the model
    assert not has_void_turn(trajectory("code", (call("ok", 4, 4),), FinishReason.LENGTH), retool, decode)
    assert not has_void_turn(trajectory("so what"), DIALECTS["text"], decode)


def test_outages() -> None:
    assert is_outage(trajectory("x", finish=FinishReason.SANDBOX_FAILURE))
    assert not is_outage(trajectory("x", finish=FinishReason.LENGTH))


def test_groups_of_equal_rewards_are_filtered() -> None:
    rewards = np.array([1, 1, 1, -1, -1, 1, 1.0])
    groups = np.array([0, 0, 1, 1, 2, 2, 2])
    valid = np.array([True, True, True, True, True, False, False])
    assert teaches(rewards, groups, valid).tolist() == [False, False, True, True, False, False, False]
