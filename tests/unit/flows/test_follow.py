"""Following a run without a terminal, and the output of a failed one."""

import io
import json
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Completed, Failed, Running, State
from rich.console import Console

from flows.commands.follow import LINE_S, Lines, Outcome, follow
from flows.commands.local import failure
from flows.start import RECORD
from tasks.shared.contract.addresses import free_port


def home_with_logs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the logs of the record `mine`, under a home in this directory."""
    monkeypatch.setenv("TIRFLOW_HOME", str(directory))
    logs = directory / "logs" / "mine"
    logs.mkdir(parents=True)
    return logs


def stage(name: str, state: State, seconds: float = 3.0) -> TaskRun:
    run = TaskRun(name=name, task_key=name, dynamic_key=name, state=state, state_name=state.name)
    return run.model_copy(update={"total_run_time": timedelta(seconds=seconds)})


def test_lines_when_something_changes_and_every_half_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, now = io.StringIO(), [0.0]
    logs = home_with_logs(tmp_path, monkeypatch)
    lines = Lines(Console(file=shown, width=80), clock=lambda: now[0])
    taken = timedelta(seconds=65)
    run = FlowRun(flow_id=uuid4(), name="demo", state=Running(), state_name="Running", total_run_time=taken)
    run.labels[RECORD] = "mine"

    def show(*stages: TaskRun) -> list[str]:
        before = len(shown.getvalue())
        lines.show(run, list(stages))
        return shown.getvalue()[before:].splitlines()

    progress = {"event": "progress", "time": 1.0, "step": 40, "total": 200, "metrics": {"loss": 0.5}}
    (logs / "sft.log").write_text(json.dumps(progress) + "\n")
    prepared, training = stage("prepare", Completed()), stage("sft", Running())
    assert show(training) == ["    65 s  sft  40 of 200, 3 s  loss 0.5"]
    assert show(training) == []
    assert show(prepared, training) == ["    65 s  prepare  done in 3.0 s"]
    now[0] = LINE_S
    assert show(prepared, training) == ["    65 s  sft  40 of 200, 3 s  loss 0.5"]
    assert show(prepared, training) == []
    failed = Failed(message="Task run encountered an exception StageFailed: no room")
    assert show(prepared, stage("sft", failed)) == ["    65 s  sft  Failed  no room"]
    now[0] = 3 * LINE_S
    assert show() == ["    65 s    Running"]


def test_a_failed_run_names_stage_reason_log_and_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = home_with_logs(tmp_path, monkeypatch)
    (logs / "sft.log").touch()
    outcome = Outcome("FAILED", "1 of 3 stages", 9.0, "mine", (("sft", "no room on the disk"),))
    lines = failure(outcome, "tirflow run train/tiny run=mine").plain.splitlines()
    assert lines == [
        "stage:     sft",
        "why:       no room on the disk",
        f"log:       {logs}/sft.log",
        "go on:     tirflow run train/tiny run=mine    (finished stages are reused)",
    ]
    early = failure(Outcome("CRASHED", "the worker died", 1.0), "make demo").plain
    assert early.splitlines()[0] == "crashed:   the worker died"


def test_a_server_that_goes_away_ends_in_one_line_with_the_next_step() -> None:
    address = f"http://127.0.0.1:{free_port('127.0.0.1')}/api"
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(
            ValueError, match=r"the server does not answer any more .*`tirflow up`.* continues the run$"
        ),
    ):
        follow(address, uuid4(), Console(file=io.StringIO()))
