"""The reward of a trajectory: its outcome minus two optional penalties, which are off by default."""

from tasks.rl.config import RlConfig
from tasks.shared.traces.trajectory import FinishReason, Trajectory


def overlong_penalty(num_tokens: int, max_tokens: int, buffer_tokens: int) -> float:
    """DAPO's soft overlong penalty (arXiv 2503.14476, eq. 13), from 0 to -1.

    0 up to max - buffer response tokens, then linear, -1 at max and beyond; buffer 0 switches it off.
    """
    if buffer_tokens == 0:
        return 0.0
    over = num_tokens - (max_tokens - buffer_tokens)
    return -min(1.0, max(0.0, over / buffer_tokens))


def reward(outcome: float, trajectory: Trajectory, max_tokens: int, config: RlConfig) -> float:
    """The answer's own score minus the penalties: DAPO's for length, ToRL's for a block that did not run to its end.

    A response that ended for its length counts as `max_tokens` long: feedback that did not fit is not in it.
    """
    is_cut = trajectory.finish is FinishReason.LENGTH
    num_tokens = max_tokens if is_cut else len(trajectory.response_ids)
    penalty = 0.0 if all(call.ran for call in trajectory.calls) else config.failed_code_penalty
    return outcome - penalty + overlong_penalty(num_tokens, max_tokens, config.overlong_buffer_tokens)
