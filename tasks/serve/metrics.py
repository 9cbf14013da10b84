"""Prometheus metrics of a server: requests, tokens, calls, samples under way, and the sandbox's health."""

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tasks.serve.replies import Reply
from tasks.serve.resident import Resident

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
HEALTH_FIGURES = (
    "queue_wait_p50_ms",
    "queue_wait_p99_ms",
    "execution_p50_ms",
    "execution_p99_ms",
    "restarts",
)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, resident: Resident) -> None:
        self._registry = CollectorRegistry()
        common: dict[str, Any] = {"registry": self._registry, "namespace": "tirflow"}
        self.requests = Counter("requests", "Requests answered", ["path", "status"], **common)
        self.seconds = Histogram("request_seconds", "From request to end of reply", buckets=SECONDS, **common)
        self.alive = Gauge("samples_alive", "Samples queued or under way", **common)
        self._tokens = Counter("tokens", "Tokens by who wrote them", ["kind"], **common)
        self._calls = Counter("calls", "Code blocks by how they ended", ["status"], **common)
        self._registry.register(SandboxHealth(resident))

    def count(self, replies: Iterable[Reply], prompt_tokens: int) -> None:
        """Count the tokens and calls of an answered request."""
        self._tokens.labels("prompt").inc(prompt_tokens)
        for reply in replies:
            parts = reply.parts
            self._tokens.labels("sampled").inc(parts.num_ids - parts.num_shown)
            self._tokens.labels("interpreter").inc(parts.num_shown)
            for call in parts.calls:
                self._calls.labels(call.status).inc()

    def text(self) -> bytes:
        """Return the metrics in Prometheus's format."""
        return generate_latest(self._registry)


class SandboxHealth(Collector):
    """The health of the sandbox server, read whenever the metrics are."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident

    def collect(self) -> Iterable[Metric]:
        """Yield programs by status, waiting times and restarts; nothing where no code runs."""
        tool = self._resident.tool
        health = tool.health() if tool is not None else {}
        if "statuses" not in health:
            return
        ended = CounterMetricFamily("tirflow_sandbox_programs", "Programs by status", labels=["status"])
        for status, count in health["statuses"].items():
            ended.add_metric([status], count)
        yield ended
        for name in HEALTH_FIGURES:
            yield GaugeMetricFamily(
                f"tirflow_sandbox_{name}", "From the sandbox's health", value=health[name]
            )
