"""A short soak test: half of the programs are hostile, workers are killed, nothing is left. Long one: benchmarks."""

from __future__ import annotations

from typing import Any

from benchmarks.sandbox_soak import run


def test_soak_answers_everything_and_leaves_nothing() -> None:
    report: dict[str, Any] = run(num_programs=600, seed=3)
    assert sum(report["statuses"].values()) == 600
    assert report["killed"] == 1
    assert report["health"]["restarts"] >= 1
    assert report["health"]["statuses"]["sandbox_failure"] == 0
    before, after = report["held"]["before"], report["held"]["after"]
    for name in ("processes", "server_descriptors", "worker_descriptors", "mounts"):
        assert after[name] == before[name], (name, before, after)
    assert after["server_mb"] - before["server_mb"] < 8
    assert after["others_mb"] - before["others_mb"] < 16
