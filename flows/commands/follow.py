"""Follow a deployment run: its finished stages, and progress and numbers of the running one.

A terminal shows a table that is updated. Elsewhere a line is printed whenever a stage ends, and at least every 30 s.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
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

from flows.commands.parameters import check_parameters
from flows.start import RECORD
from tasks.launch.backends.attempt import Event, parse_event
from tasks.shared.contract.environment import home

POLL_S = 0.5
LINE_S = 30.0  # longest time between two lines without a terminal
TAIL_BYTES = 64 * 1024
# Prefect puts it before a reason
PREFIX = re.compile(r"^(?:Task|Flow) run encountered an exception:? (?:\w+: )?")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a flow run ended."""

    state: str  # COMPLETED, FAILED, ...
    message: str
    seconds: float  # from start to end, by the server's clock
    record: str = ""  # the record that has its stages; none before the flow has begun one
    failed: tuple[tuple[str, str], ...] = ()  # stages that failed, with the cause


def start_run(api_url: str, deployment: str, parameters: dict[str, Any]) -> UUID:
    """Create a run, as `prefect deployment run <deployment>` does.

    Raises ValueError if there is no such deployment, or if it does not take these parameters.
    """
    with SyncPrefectClient(api_url) as client:
        try:
            found = client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            raise ValueError(
                f"deployment '{deployment}': not on {api_url}; `tirflow deploy` brings what prefect.yaml names"
            ) from None
        check_parameters(deployment, found.parameter_openapi_schema or {}, found.parameters | parameters)
        return client.create_flow_run_from_deployment(found.id, parameters=parameters).id


def follow(api_url: str, flow_run: UUID, console: Console) -> Outcome:
    """Show the run until it has ended. Raises ValueError if the server does not answer any more."""
    try:
        with SyncPrefectClient(api_url) as client, _shown(console) as show:
            while True:
                run, stages = client.read_flow_run(flow_run), _stages(client, flow_run)
                show(run, stages)
                if run.state is not None and run.state.is_final():
                    break
                time.sleep(POLL_S)
    except httpx.TransportError as error:
        raise ValueError(
            f"{api_url}: the server does not answer any more ({error or type(error).__name__}); the run may go on. "
            "Start the server again (`tirflow up`), and the same command continues the run"
        ) from None
    if not console.is_terminal:
        console.print(_table(run, stages))
    failed = tuple(
        (stage.name, reason_of(stage))
        for stage in stages
        if stage.state is not None and (stage.state.is_failed() or stage.state.is_crashed())
    )
    seconds = run.total_run_time.total_seconds()
    return Outcome(run.state.type.value, reason_of(run), seconds, str(run.labels.get(RECORD, "")), failed)


def logs_of(run: FlowRun) -> Path:
    """The folder of its stages' logs, where they ran on this host."""
    return home() / "logs" / str(run.labels.get(RECORD, ""))


def reason_of(run: FlowRun | TaskRun) -> str:
    """Return the message of a state without Prefect's prefix, or ""."""
    message = (run.state.message or "") if run.state is not None else ""
    return PREFIX.sub("", message.strip())


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[FlowRun, list[TaskRun]], None]]:
    """Yield a function that shows the current state of a run: a table in a terminal, else lines."""
    if not console.is_terminal:
        yield Lines(console).show
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda run, stages: live.update(_table(run, stages))


class Lines:
    """Shows a run in lines: when a stage begins or ends, and every `LINE_S` seconds the progress of running stages."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._known: dict[str, str] = {}  # stage -> its state when it was last shown
        self._shown = clock()

    def show(self, run: FlowRun, stages: list[TaskRun]) -> None:
        """Print stages whose state is new. After a long time without any, print the running stages."""
        new = [stage for stage in stages if self._known.get(stage.name) != (stage.state_name or "")]
        running = [stage for stage in stages if stage.state is not None and not stage.state.is_final()]
        if not new and self._clock() - self._shown < LINE_S:
            return
        self._known = {stage.name: stage.state_name or "" for stage in stages}
        self._shown = self._clock()
        for stage in new or running:
            self._print(run, stage.name, _line(stage, logs_of(run)))
        if not new and not running:
            self._print(run, "", run.state_name or "")

    def _print(self, run: FlowRun, name: str, text: str) -> None:
        line = f"{_seconds(run):6.0f} s  {name}  {text}".rstrip()
        self._console.print(Text(line), soft_wrap=True)


def _line(stage: TaskRun, logs: Path) -> str:
    """Describe a stage in a line: how it ended, or its progress with the latest numbers."""
    _, status, numbers = _row(stage, logs)
    if isinstance(status, Text):
        return f"{status.plain}  {numbers.plain}".strip()
    progress = last_progress(logs / f"{stage.name}.log")
    steps = f"{progress['step']} of {progress['total']}" if progress else stage.state_name or ""
    return f"{steps}, {numbers.plain}"


def cancel(api_url: str, flow_run: UUID) -> None:
    """Cancel the run. Its worker ends it with its stage."""
    with SyncPrefectClient(api_url) as client:
        client.set_flow_run_state(flow_run, Cancelling())


def _stages(client: SyncPrefectClient, flow_run: UUID) -> list[TaskRun]:
    """List the run's stages in the order in which they began."""
    own = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    return client.read_task_runs(flow_run_filter=own, sort=TaskRunSort.EXPECTED_START_TIME_ASC)


def _table(run: FlowRun, stages: list[TaskRun]) -> Group:
    table = Table(box=None, padding=(0, 1), show_header=False)
    for stage in stages:
        table.add_row(*_row(stage, logs_of(run)))
    title = Text(f"{run.name}: {run.state_name}  {_seconds(run):.0f} s")
    return Group(title, table)


def _row(stage: TaskRun, logs: Path) -> tuple[Text, ProgressBar | Text, Text]:
    """Return the cells of a stage: its name, its progress or status, and its latest numbers or the cause of its end."""
    name, state = Text(stage.name), stage.state
    if state is None or stage.state_name == "Cached":
        return name, Text("done before" if state else "", style="cyan"), Text("")
    progress = last_progress(logs / f"{stage.name}.log") or {}
    numbers = "  ".join(f"{key} {_short(value)}" for key, value in progress.get("metrics", {}).items())
    if state.is_completed():
        return name, Text(f"done in {_seconds(stage):.1f} s", style="green"), Text(numbers)
    if state.is_final():
        return name, Text(stage.state_name or "", style="red"), Text(reason_of(stage))
    total = float(progress.get("total", 0)) or None
    bar = ProgressBar(total, float(progress.get("step", 0)), width=24)
    return name, bar, Text(f"{_seconds(stage):.0f} s  {numbers}")


def _seconds(run: FlowRun | TaskRun) -> float:
    return (run.total_run_time or run.estimated_run_time).total_seconds()


def last_progress(log_path: Path) -> Event | None:
    """Return the last progress event of a stage's log since its last start, or None."""
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
    if isinstance(value, bool):
        return json.dumps(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
