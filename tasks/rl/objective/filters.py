"""Decides which trajectories stay out of the loss: outages, void turns, groups with equal outcomes."""

from collections.abc import Callable, Sequence

import numpy as np

from tasks.shared.grading.box import last_box
from tasks.shared.traces.dialect import Dialect
from tasks.shared.traces.own_words import own_words
from tasks.shared.traces.trajectory import FinishReason, Trajectory


def is_outage(trajectory: Trajectory) -> bool:
    """Whether the sandbox failed: such a trajectory has no meaningful reward; it is in neither baseline nor loss."""
    return trajectory.finish is FinishReason.SANDBOX_FAILURE


def has_void_turn(trajectory: Trajectory, dialect: Dialect, decode: Callable[[Sequence[int]], str]) -> bool:
    """True if a turn has neither a whole code block nor an answer (SimpleTIR, arXiv 2509.02479).

    Every turn but the last ended in a block, which is whole unless a notice answered it. The last turn, after the last
    feedback, needs a boxed answer or a block (whose feedback did not fit). Text-only dialects have no turns.
    """
    if not dialect.runs_code:
        return False
    if not all(call.executed for call in trajectory.calls):
        return True
    start = 0
    if trajectory.calls:
        last = trajectory.calls[-1]
        if last.feedback_end == last.turn_end == len(trajectory.response_ids):
            return False
        start = last.feedback_end
    return not last_box(own_words([decode(trajectory.response_ids[start:])]))


def teaches(outcomes: np.ndarray, groups: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(N,) bool: valid rows whose group's valid outcomes are not all equal (DAPO's dynamic sampling, without refill).

    outcomes (N,), groups (N,) int, valid (N,) bool. An outcome is the answer's own score, before penalties: DAPO counts
    correct answers, so a group whose penalties alone differ teaches nothing (arXiv 2503.14476, eq. 11).
    """
    keep = np.zeros_like(valid)
    for group in np.unique(groups[valid]):
        rows = valid & (groups == group)
        keep[rows] = outcomes[rows].max() > outcomes[rows].min()
    return keep
