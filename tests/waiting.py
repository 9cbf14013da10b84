"""Waits for events in another thread, process or machine."""

import time
from collections.abc import Callable


def until(
    condition: Callable[[], object],
    failure: str = "the condition did not become true in time",
    timeout_s: float = 900.0,
    every_s: float = 0.05,
) -> float:
    """Wait for a condition. Returns the seconds that it took. AssertionError with `failure` after the timeout."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, failure
        time.sleep(every_s)
    return time.monotonic() - started
