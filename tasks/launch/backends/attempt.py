"""One attempt at a stage on a backend: scratch directory, lock, log, events, and an error that names the cause.

Knows nothing of Prefect. The scratch directory belongs to the request's content, so a killed stage finds its own
checkpoints when the same request is run again.
"""

import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.launch.backends.backend import Away, Backend, Exit, RunningStage
from tasks.shared.contract.stage import StageRequest, StageResult

Event = dict[str, Any]
REQUEST = "request.json"
EXIT_STORAGE = 3  # `stage_main` ends with it when disk or store fails
TAIL_LINES = 5
STOP_POLL_S = 2.0
LOCK_POLL_S = 1.0


class StageFailed(RuntimeError):
    """A stage ended without a result. The message names the cause and the full log in one line."""


class StageStopped(StageFailed):
    """A stage was stopped because its run was cancelled."""


class StageLost(StageFailed):
    """A stage ended through no fault of its own (container, engine or store went away) and may be tried again."""


def run_on_backend(
    request: StageRequest,
    backend: Backend,
    log_path: Path,
    on_event: Callable[[Event], None],
    should_stop: Callable[[], bool] = lambda: False,
    fresh: bool = False,
) -> StageResult:
    """Run the stage to its end and return its result. Nothing of it is left running, however this returns.

    `on_event` gets every event of the stage. A thread polls `should_stop`; True ends the stage. `fresh` removes what
    an earlier attempt left in the scratch directory. Raises StageFailed, StageStopped or StageLost.
    """
    scratch = Path(request.scratch)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(request, on_event, should_stop) as (lock, waited):
        if waited and (result := _read_result(scratch)):
            return result  # another run did the same work while this one waited
        try:
            stage = None if fresh else backend.find(scratch / REQUEST, log_path)
            found = stage is not None
            stage = stage or _start(request, backend, log_path, lock, fresh)
        except Away as away:
            raise StageLost(f"stage '{request.stage}': {away}") from None
        if found:
            on_event({"event": "log", "message": "an earlier attempt still runs it; following that one"})
        with _stopping(stage, should_stop) as stopped:
            error = _follow(stage, log_path, on_event)
            ended = stage.wait()
        if stopped.is_set():
            raise StageStopped(f"stage '{request.stage}' was stopped: its run was cancelled; log: {log_path}")
        result = _read_result(scratch)
        if ended.code or ended.cause or result is None:
            outage = ended.cause in ("lost", "away") or (
                ended.code == EXIT_STORAGE and "://" in request.store
            )
            raise (StageLost if outage else StageFailed)(_explain(request.stage, ended, error, log_path))
        _prune(scratch)
        return result


def _start(request: StageRequest, backend: Backend, log_path: Path, lock: int, fresh: bool) -> RunningStage:
    """Start the stage in its scratch directory, which has only its own checkpoints of earlier attempts."""
    scratch = Path(request.scratch)
    if fresh:
        shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "result.json").unlink(missing_ok=True)
    (scratch / REQUEST).write_text(request.model_dump_json(indent=1))
    with log_path.open("a") as log:
        started = {"event": "start", "time": round(time.time(), 3), "stage": request.stage}
        log.write(json.dumps(started) + "\n")
    return backend.start(scratch / REQUEST, log_path, lock)


def _follow(stage: RunningStage, log_path: Path, on_event: Callable[[Event], None]) -> str | None:
    """Log every line and pass every event on. Returns the message of the stage's own error event, if any."""
    error = None
    with log_path.open("a") as log:
        for line in stage.lines():
            log.write(line + "\n")
            log.flush()
            event = parse_event(line)
            if event is None:
                continue
            if event["event"] == "error":
                error = str(event.get("message"))
            on_event(event)
    return error


def parse_event(line: str) -> Event | None:
    """Return the event on a line of a stage's stdout; None for other text, such as output of libraries."""
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


@contextmanager
def _stopping(stage: RunningStage, should_stop: Callable[[], bool]) -> Iterator[threading.Event]:
    """End the stage when the block ends, or as soon as `should_stop`, which sets the event."""
    finished, stopped = threading.Event(), threading.Event()

    def watch() -> None:
        while not finished.wait(STOP_POLL_S):
            if should_stop():
                stopped.set()
                stage.stop()
                return

    watcher = threading.Thread(target=watch, name="stage-watch", daemon=True)
    watcher.start()
    try:
        yield stopped
    finally:
        finished.set()
        stage.stop()
        watcher.join(timeout=STOP_POLL_S)


@contextmanager
def _exclusive(
    request: StageRequest, on_event: Callable[[Event], None], should_stop: Callable[[], bool]
) -> Iterator[tuple[int, bool]]:
    """Hold the lock of a scratch directory, since two runs may need the same work. Yields (descriptor, waited)."""
    scratch = Path(request.scratch)
    scratch.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(scratch.with_name(scratch.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    waited = False
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    on_event({"event": "log", "message": "another run does the same work; waiting for it"})
                waited = True
                if should_stop():
                    raise StageStopped(
                        f"stage '{request.stage}' was stopped: its run was cancelled"
                    ) from None
                time.sleep(LOCK_POLL_S)
        yield lock, waited
    finally:
        os.close(lock)


def _read_result(scratch: Path) -> StageResult | None:
    try:
        return StageResult.model_validate_json((scratch / "result.json").read_text())
    except (FileNotFoundError, ValidationError):
        return None


def _explain(stage: str, ended: Exit, error: str | None, log_path: Path) -> str:
    """Return one line: the cause that the backend saw, the stage's own error, the signal, or the exit code."""
    causes = {
        "lost": ": its container is gone, and no process here stopped it",
        "away": ": the Docker engine stopped or does not answer, look at it (systemctl status docker)",
        "out_of_memory": " ran out of memory; raise TIRFLOW_STAGE_MEMORY or lower the token budgets of the recipe",
    }
    if ended.cause:
        cause = causes[ended.cause]
    elif error is not None:
        return f"stage '{stage}': {error}"
    elif name := next((known.name for known in signal.Signals if known == ended.code - 128), ""):
        hint = "out of memory? " if name == "SIGKILL" else ""
        cause = f" was killed by {name}; {hint}run it again and it goes on from its last checkpoint"
    else:
        cause = f" failed with exit code {ended.code}"
    tail = " | ".join(log_path.read_text(errors="replace").splitlines()[-TAIL_LINES:])[-600:]
    return f"stage '{stage}'{cause}; log: {log_path}; it ends: {tail}"


def _prune(scratch: Path) -> None:
    """Remove the checkpoints of a finished stage. Request and result stay for people."""
    for path in scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (REQUEST, "result.json"):
            path.unlink()
