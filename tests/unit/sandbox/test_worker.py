"""A worker that can make no child."""

import time

import pytest

from tasks.shared.sandbox.worker import CannotConfine, Worker


def test_attempts_go_on_while_a_session_lives_and_end_without_one() -> None:
    """Half a second apart, for as long as it takes: a power of two must not grow with them."""
    worker = object.__new__(Worker)
    worker._failures, worker._children = 0, {0: None}  # type: ignore[dict-item]
    for _ in range(3000):
        worker._failed("fork: Resource temporarily unavailable")
    assert worker._next_try - time.monotonic() < 1.0
    worker._children = {}
    with pytest.raises(CannotConfine, match="fork"):
        worker._failed("fork: Resource temporarily unavailable")
