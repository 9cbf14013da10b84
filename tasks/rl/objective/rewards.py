"""The reward of a trajectory: its outcome minus two optional penalties, which are off by default."""

from collections.abc import Sequence

from tasks.shared.traces.trajectory import CodeCall


def overlong_penalty(num_tokens: int, max_tokens: int, buffer_tokens: int) -> float:
    """DAPO's soft overlong penalty (arXiv 2503.14476, eq. 13), from 0 to -1.

    0 up to max - buffer response tokens, then linear, -1 at max and beyond; buffer 0 switches it off.
    """
    if buffer_tokens == 0:
        return 0.0
    over = num_tokens - (max_tokens - buffer_tokens)
    return -min(1.0, max(0.0, over / buffer_tokens))


def reward(
    outcome: float,
    calls: Sequence[CodeCall],
    num_tokens: int,
    *,
    max_tokens: int,
    overlong_buffer_tokens: int = 0,
    failed_code_penalty: float = 0.0,
) -> float:
    """The answer's own score minus the penalties: DAPO's for length, ToRL's for a block that did not run to its end."""
    penalty = 0.0 if all(call.ran for call in calls) else failed_code_penalty
    return outcome - penalty + overlong_penalty(num_tokens, max_tokens, overlong_buffer_tokens)
