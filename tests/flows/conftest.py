"""A temporary Prefect server with a worker and all deployments, one for the session, and how tests drive it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest

from flows.commands.follow import start_run
from flows.server import cluster
from tasks.launch.backends.attempt import parse_event
from tasks.shared.artifacts import Store
from tasks.shared.runs.record import RunRecord, RunRecords
from tests.preloaded.environment import interpreter
from tests.waiting import until

# Stages that are forked from a process with their imports. `sft` is not, since tests kill and cancel it.
FORKED = tuple(f"tasks.{stage}.main" for stage in ("prepare", "synthesize", "rl", "evaluate", "report"))
RUN_TIMEOUT_S = 900.0  # a busy SQLite has blocked a server for a minute
FINAL_STATES = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Prefect:
    """A running cluster and its home, seen from a test."""

    cluster: cluster.Cluster
    client: httpx.Client

    @property
    def home(self) -> Path:
        return self.cluster.home

    @property
    def store(self) -> Store:
        return Store(str(self.home / "store"))

    def record(self, run: str) -> RunRecord:
        return RunRecords(str(self.home / "store")).read(run)

    def start(self, deployment: str, **parameters: Any) -> UUID:
        return start_run(self.cluster.api_url, deployment, parameters)

    def wait(self, flow_run: UUID) -> dict[str, Any]:
        """Wait for the flow run's end."""
        until(lambda: self.read(flow_run)["state_type"] in FINAL_STATES, every_s=0.3)
        return self.read(flow_run)

    def run(self, deployment: str, **parameters: Any) -> dict[str, Any]:
        """Run a flow, which must complete."""
        run = self.wait(self.start(deployment, **parameters))
        assert run["state_type"] == "COMPLETED", run["state"]["message"]
        return run

    def read(self, flow_run: UUID) -> dict[str, Any]:
        return dict(self.request("GET", f"flow_runs/{flow_run}"))

    def filter(self, what: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        return list(self.request("POST", f"{what}/filter", json=body))

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """Send a request to the server.

        A busy SQLite gives 503, and the request is repeated as Prefect's client does.
        """
        for _ in range(20):
            response = self.client.request(method, path, **arguments)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1)
        response.raise_for_status()
        return response.json()

    def stages(self, flow_run: dict[str, Any]) -> dict[str, str]:
        """The stages of a flow run and how each ended: Completed (it ran), Cached, Failed."""
        tasks = self.filter("task_runs", {"flow_runs": {"id": {"any_": [flow_run["id"]]}}})
        return {task["name"]: task["state_name"] for task in tasks}

    def starts(self, run: str, label: str) -> int:
        """How often a stage was started, by its own log."""
        return sum(event["event"] == "start" for event in self.events(run, label))

    def events(self, run: str, label: str) -> list[dict[str, Any]]:
        """Every event in a stage's log, over all its attempts."""
        path = self.home / "logs" / run / f"{label}.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(parse_event, lines) if event]

    def stage_process(self, stage: str) -> psutil.Process | None:
        """The process of a running stage of this home."""
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            is_stage = f"tasks.{stage}.main" in command and "tasks.shared.contract.guard" not in command
            if is_stage and command[-1].startswith(str(self.home)):
                return process
        return None

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of Prefect's own, in a shell that `tirflow env` prepared."""
        environment = os.environ | cluster.settings(self.home, self.cluster.port)
        command = [sys.executable, "-m", "prefect", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """A server, a worker that polls four times as often as usual, and the deployments of prefect.yaml."""
    settings, patch = cluster.settings, pytest.MonkeyPatch()
    often = {"PREFECT_WORKER_QUERY_SECONDS": "0.5"}
    patch.setattr(cluster, "settings", lambda home, port: settings(home, port) | often)
    for name in ("STOP_TIMEOUT_S", "IDLE_STOP_TIMEOUT_S"):
        patch.setattr(cluster, name, 2.0)  # every run has ended, so nothing is lost
    with pytest.MonkeyPatch.context() as starting:
        starting.setattr(sys, "executable", str(interpreter(FORKED)))
        running = cluster.start(tmp_path_factory.mktemp("prefect"), owned=True, port=0)
    try:
        with httpx.Client(base_url=running.api_url, timeout=90) as client:
            yield Prefect(running, client)
    finally:
        cluster.stop(running)
        patch.undo()


def small(**changes: Any) -> dict[str, Any]:
    """Overrides that make `tiny` as small as it can be and still run every stage."""
    tiny = {"name": "tiny", "source": "tiny", "split": "train", "limit": 120}
    held_out = {"name": "held_out", "source": "tiny", "split": "held_out", "limit": 3}
    overrides = {
        "data.train": [tiny],
        "data.evaluation": [held_out],
        "sft.max_steps": 4,
        "sft.tokens_per_step": 1024,
        "sft.tokens_per_micro_batch": 1024,
        "sft.checkpoint_every_steps": 2,
        "rl.rounds": 1,
        "rl.steps_per_round": 1,
        "rl.prompts_per_step": 2,
        "rl.samples_per_prompt": 2,
        "evaluate.samples_per_problem": 1,
        "evaluate.checkpoints": ["rl"],
        "generation.max_response_tokens": 32,
    }
    return overrides | changes


def as_json(value: object) -> str:
    """A parameter in the command line's notation."""
    return json.dumps(value)
