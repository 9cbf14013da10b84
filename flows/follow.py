"""Follow a deployment run in the terminal: its stages as they finish, the running one's progress and numbers."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.parameters import check_parameters
from tasks.shared.execution.execute import Event, parse_event

POLL_S = 0.5
TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a flow run ended."""

    state: str  # COMPLETED, FAILED, ...
    message: str
    seconds: float  # from its start to its end, as the server counts


def start_run(api_url: str, deployment: str, parameters: dict[str, Any]) -> UUID:
    """What `prefect deployment run <deployment>` does: create a run.

    ValueError, one line, if there is no such deployment or it does not take these parameters.
    """
    with SyncPrefectClient(api_url) as client:
        try:
            found = client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            raise ValueError(
                f"deployment '{deployment}': not on {api_url}; `tirflow deploy` brings what prefect.yaml names"
            ) from None
        check_parameters(deployment, found.parameter_openapi_schema or {}, parameters)
        return client.create_flow_run_from_deployment(found.id, parameters=parameters).id


def follow(api_url: str, flow_run: UUID, logs: Path, console: Console) -> Outcome:
    """Show the run until it has ended. `logs`: the folder of the stages' logs of this run."""
    live = Live(console=console, refresh_per_second=4, transient=not console.is_terminal)
    with SyncPrefectClient(api_url) as client, live:
        while True:
            run, stages = client.read_flow_run(flow_run), _stages(client, flow_run)
            live.update(_picture(run, stages, logs))
            if run.state is not None and run.state.is_final():
                break
            time.sleep(POLL_S)
    if not console.is_terminal:
        console.print(_picture(run, stages, logs))
    return Outcome(
        run.state.type.value, (run.state.message or "").strip(), run.total_run_time.total_seconds()
    )


def cancel(api_url: str, flow_run: UUID) -> None:
    """Ask the run to end; its worker ends it, and the stage with it."""
    with SyncPrefectClient(api_url) as client:
        client.set_flow_run_state(flow_run, Cancelling())


def _stages(client: SyncPrefectClient, flow_run: UUID) -> list[TaskRun]:
    """The run's stages in the order in which they began."""
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    return client.read_task_runs(flow_run_filter=mine, sort=TaskRunSort.EXPECTED_START_TIME_ASC)


def _picture(run: FlowRun, stages: list[TaskRun], logs: Path) -> Group:
    table = Table(box=None, padding=(0, 1), show_header=False)
    for stage in stages:
        table.add_row(*_row(stage, logs))
    title = Text(f"{run.name}: {run.state_name}  {_seconds(run):.0f} s")
    return Group(title, table)


def _row(stage: TaskRun, logs: Path) -> tuple[Text, ProgressBar | Text, Text]:
    """A stage: its name, how far it is, and its latest numbers (or how it ended)."""
    name, state = Text(stage.name), stage.state
    if state is None or stage.state_name == "Cached":
        return name, Text("done before" if state else "", style="cyan"), Text("")
    progress = last_progress(logs / f"{stage.name}.log") or {}
    numbers = "  ".join(f"{key} {_short(value)}" for key, value in progress.get("metrics", {}).items())
    if state.is_completed():
        return name, Text(f"done in {_seconds(stage):.1f} s", style="green"), Text(numbers)
    if state.is_final():
        return name, Text(stage.state_name or "", style="red"), Text(state.message or "")
    total = float(progress.get("total", 0)) or None
    bar = ProgressBar(total, float(progress.get("step", 0)), width=24)
    return name, bar, Text(f"{_seconds(stage):.0f} s  {numbers}")


def _seconds(run: FlowRun | TaskRun) -> float:
    return (run.total_run_time or run.estimated_run_time).total_seconds()


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
