"""The reward of a trajectory: +1 for a right boxed answer, else -1; two optional penalties, off by default."""

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


def code_failed(calls: Sequence[CodeCall]) -> bool:
    """Whether any block did not run to its end."""
    return any(not call.ran for call in calls)


def outcome_of(correct: bool) -> float:
    """ReTool's and ToRL's outcome reward."""
    return 1.0 if correct else -1.0


def reward(
    outcome: float,
    calls: Sequence[CodeCall],
    num_tokens: int,
    *,
    max_tokens: int,
    overlong_buffer_tokens: int = 0,
    failed_code_penalty: float = 0.0,
) -> float:
    """The answer's own score minus the penalties: DAPO's for length, ToRL's for code that fails."""
    penalty = failed_code_penalty if code_failed(calls) else 0.0
    return outcome - penalty + overlong_penalty(num_tokens, max_tokens, overlong_buffer_tokens)
