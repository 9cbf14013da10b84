"""Health figures of a sandbox server: programs by status, waiting times and execution times."""

from __future__ import annotations

import time
from collections import Counter, deque

from tasks.shared.sandbox.records import ExecutionResult, Status

_WINDOW = 10_000


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the sorted values lie; 0 without values."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0


class Metrics:
    """Counts since the start, and times over the last 10,000 programs."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._statuses: Counter[str] = Counter()
        self._queue_s: deque[float] = deque(maxlen=_WINDOW)
        self._run_s: deque[float] = deque(maxlen=_WINDOW)
        self.restarts = 0
        self.retries = 0
        self.bad_requests = 0

    def record(self, result: ExecutionResult) -> None:
        """Count one finished program."""
        self._statuses[result.status.value] += 1
        self._queue_s.append(result.queue_s)
        self._run_s.append(result.seconds)

    def snapshot(self) -> dict[str, object]:
        """Return all figures for JSON, times in milliseconds."""
        waited, ran = sorted(self._queue_s), sorted(self._run_s)
        return {
            "uptime_s": round(time.monotonic() - self._started, 3),
            "executions": sum(self._statuses.values()),
            "statuses": {status.value: self._statuses[status.value] for status in Status},
            "queue_wait_p50_ms": round(1e3 * percentile(waited, 0.5), 3),
            "queue_wait_p99_ms": round(1e3 * percentile(waited, 0.99), 3),
            "execution_p50_ms": round(1e3 * percentile(ran, 0.5), 3),
            "execution_p99_ms": round(1e3 * percentile(ran, 0.99), 3),
            "restarts": self.restarts,
            "retries": self.retries,
            "bad_requests": self.bad_requests,
        }
