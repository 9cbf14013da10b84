"""Follow a deployment run in the terminal: its stages as they finish, the running one's progress and numbers."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.shared.execution.execute import Event, parse_event

POLL_S = 0.5
FINAL_STATES = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a flow run ended."""

    state: str  # COMPLETED, FAILED, ...
    message: str
    seconds: float  # from its start to its end, as the server counts


def start_run(api_url: str, deployment: str, parameters: dict[str, Any]) -> UUID:
    """What `prefect deployment run <deployment>` does: create a run; ValueError, one line, if there is no such one."""
    found = httpx.get(f"{api_url}/deployments/name/{deployment}", timeout=30.0)
    if found.status_code == httpx.codes.NOT_FOUND:
        raise ValueError(
            f"deployment '{deployment}': not on {api_url}; deploy it with `make up`, names are in prefect.yaml"
        )
    found.raise_for_status()
    body = {"parameters": found.json()["parameters"] | parameters, "state": {"type": "SCHEDULED"}}
    created = httpx.post(
        f"{api_url}/deployments/{found.json()['id']}/create_flow_run", json=body, timeout=30.0
    )
    created.raise_for_status()
    return UUID(created.json()["id"])


def follow(api_url: str, flow_run: UUID, logs: Path, console: Console) -> Outcome:
    """Show the run until it has ended. `logs`: the folder of the stages' logs of this run."""
    with Live(console=console, refresh_per_second=4, transient=not console.is_terminal) as live:
        while True:
            run = _get(api_url, flow_run)
            tasks = _stages(api_url, flow_run)
            live.update(_picture(run, tasks, logs))
            if run["state_type"] in FINAL_STATES:
                break
            time.sleep(POLL_S)
    if not console.is_terminal:
        console.print(_picture(run, tasks, logs))
    message = (run["state"].get("message") or "").strip()
    return Outcome(run["state_type"], message, float(run["total_run_time"]))


def cancel(api_url: str, flow_run: UUID) -> None:
    """Ask the run to end; its worker ends it, and the stage with it."""
    body = {"state": {"type": "CANCELLING"}}
    httpx.post(f"{api_url}/flow_runs/{flow_run}/set_state", json=body, timeout=30.0).raise_for_status()


def _get(api_url: str, flow_run: UUID) -> dict[str, Any]:
    response = httpx.get(f"{api_url}/flow_runs/{flow_run}", timeout=60.0)
    response.raise_for_status()
    run: dict[str, Any] = response.json()
    return run


def _stages(api_url: str, flow_run: UUID) -> list[dict[str, Any]]:
    """The run's stages in the order in which they began."""
    body = {"flow_runs": {"id": {"any_": [str(flow_run)]}}, "sort": "EXPECTED_START_TIME_ASC"}
    response = httpx.post(f"{api_url}/task_runs/filter", json=body, timeout=60.0)
    response.raise_for_status()
    return list(response.json())


def _picture(run: dict[str, Any], tasks: list[dict[str, Any]], logs: Path) -> Group:
    table = Table(box=None, padding=(0, 1), show_header=False)
    for task in tasks:
        table.add_row(*_row(task, logs))
    title = Text(
        f"{run['name']}: {run['state_name']}  {run['total_run_time'] or run['estimated_run_time']:.0f} s"
    )
    return Group(title, table)


def _row(task: dict[str, Any], logs: Path) -> tuple[Text, ProgressBar | Text, Text]:
    """A stage: its name, how far it is, and its latest numbers (or how it ended)."""
    name, state = Text(task["name"]), task["state_name"]
    if state == "Cached":
        return name, Text("done before", style="cyan"), Text("")
    seconds = task["total_run_time"] or task["estimated_run_time"]
    progress = last_progress(logs / f"{task['name']}.log")
    numbers = "  ".join(
        f"{key} {_short(value)}" for key, value in (progress or {}).get("metrics", {}).items()
    )
    if task["state_type"] == "COMPLETED":
        return name, Text(f"done in {seconds:.1f} s", style="green"), Text(numbers)
    if task["state_type"] in FINAL_STATES:
        return name, Text(state, style="red"), Text(task["state"].get("message") or "")
    total = float((progress or {}).get("total", 0)) or None
    return (
        name,
        ProgressBar(total, float((progress or {}).get("step", 0)), width=24),
        Text(f"{seconds:.0f} s  {numbers}"),
    )


def last_progress(log_path: Path) -> Event | None:
    """The last progress event of a stage's log since its last start, None if there is none."""
    if not log_path.is_file():
        return None
    with log_path.open("rb") as log:
        log.seek(max(0, log_path.stat().st_size - TAIL_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        event = parse_event(line)
        if event and event["event"] == "progress":
            return event
        if event and event["event"] == "start":
            return None
    return None


def _short(value: object) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float)
        else json.dumps(value)
        if isinstance(value, bool)
        else str(value)
    )
