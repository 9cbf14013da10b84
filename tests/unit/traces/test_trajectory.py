"""The trajectory record: appended once, mask fixed then, invariants checked."""

import pickle
from dataclasses import replace

import pytest

from tasks.shared.traces.trajectory import CodeCall, FinishReason, TrajectoryBuilder


def call(turn_end: int, feedback_end: int) -> CodeCall:
    return CodeCall("print(1)", "ok", "1", 0.01, turn_end, feedback_end)


def test_the_mask_is_fixed_when_ids_are_appended():
    builder = TrajectoryBuilder("p", 0, (1, 2))
    builder.append_sampled([5, 6], [-0.5, -0.25])
    builder.append_feedback([7, 8, 9], call(2, 5))
    builder.append_sampled([10], [-1.0])
    trajectory = builder.finish(FinishReason.EOS, "text", "text")
    assert tuple(trajectory.response_ids) == (5, 6, 7, 8, 9, 10)
    assert tuple(trajectory.loss_mask) == (True, True, False, False, False, True)
    assert tuple(trajectory.logprobs) == (-0.5, -0.25, 0.0, 0.0, 0.0, -1.0)
    assert trajectory.num_sampled == 3


def test_a_token_takes_nine_bytes_on_the_wire() -> None:
    """Id, mask and log-prob. As tuples of Python numbers they take more when pickled, and 80 bytes in memory."""
    builder = TrajectoryBuilder("p", 0, (1, 2))
    count = 10_000
    builder.append_sampled(range(1000, 1000 + count), [-n / 7 for n in range(count)])
    trajectory = builder.finish(FinishReason.LENGTH, "", "")
    held = (trajectory.response_ids, trajectory.loss_mask, trajectory.logprobs)
    assert sum(memoryview(values).nbytes for values in held) == 9 * count  # type: ignore[arg-type]
    sent = pickle.dumps(trajectory)
    assert len(sent) / count == pytest.approx(9, abs=0.1)
    assert pickle.loads(sent) == trajectory
    before = replace(
        trajectory, response_ids=tuple(held[0]), loss_mask=tuple(map(bool, held[1])), logprobs=tuple(held[2])
    )
    assert len(pickle.dumps(before)) / count > 12


def test_feedback_must_follow_its_turn():
    builder = TrajectoryBuilder("p", 0, (1,))
    builder.append_sampled([5], [-0.5])
    with pytest.raises(AssertionError):
        builder.append_feedback([7], call(0, 1))
    with pytest.raises(AssertionError):
        builder.append_feedback([7], call(1, 3))


def test_a_logprob_for_every_sampled_token():
    builder = TrajectoryBuilder("p", 0, (1,))
    with pytest.raises(AssertionError):
        builder.append_sampled([5, 6], [-0.5])
    builder.append_sampled([5], [-0.5])
    builder.loss_mask[0] = False
    with pytest.raises(AssertionError, match="not sampled"):
        builder.finish(FinishReason.EOS, "", "")


def test_versions_of_the_weights_are_joined_over_turns():
    builder = TrajectoryBuilder("p", 0, (1,))
    builder.append_sampled([5, 6], [-0.5, -0.5], [(3, 2)])
    builder.append_feedback([7], call(2, 3))
    builder.append_sampled([8, 9, 10], [-0.5, -0.5, -0.5], [(3, 1), (4, 2)])
    trajectory = builder.finish(FinishReason.EOS, "", "")
    assert trajectory.versions == ((3, 3), (4, 2))
    assert trajectory.oldest_version == 3
    with pytest.raises(AssertionError):
        builder.append_sampled([11, 12], [-0.5, -0.5], [(4, 1)])
