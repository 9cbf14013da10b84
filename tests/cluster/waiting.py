"""Waiting in tests of several machines."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], timeout_s: float = 900.0) -> float:
    """Wait for a condition; the seconds it took; AssertionError after the timeout."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "waited in vain"
        time.sleep(0.2)
    return time.monotonic() - started
