"""A stage's events as Prefect logs and one progress artifact, at limited rates; the full log is a file."""

import contextvars
import re
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from tasks.launch.backends.execute import Event

PROGRESS_EVERY_S = 2.0
LOG_PROGRESS_EVERY_S = 15.0
LAST_WAIT_S = 10.0  # for the artifact of a stage that has ended


class ProgressReport:
    """Turns a stage's events into Prefect logs and one progress artifact; rates are limited, the full log is a file.

    Events come from the thread that empties the stage's pipe. The artifact is sent from another: a client tries again
    for minutes while the server is away, and a stage whose pipe is full stands still.
    """

    def __init__(self, key: str, log_path: Path) -> None:
        """`key`: names the artifact."""
        self._logger = get_run_logger()
        self._key = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")
        self._artifact: UUID | None = None
        self._lock = threading.Lock()
        self._wanted: float | None = None  # percent to be shown next
        self._sender: threading.Thread | None = None
        self._updated = self._logged = 0.0
        self._logger.info("full log: %s", log_path)

    def __call__(self, event: Event) -> None:
        """Report one event."""
        kind = event["event"]
        if kind == "log":
            self._logger.info("%s", event.get("message"))
        elif kind == "error":
            self._logger.error("%s", event.get("message"))
        elif kind == "progress":
            self._progress(int(event["step"]), int(event["total"]), event.get("metrics") or {})

    def close(self) -> None:
        """Mark the progress as complete; a server that does not answer is not waited for."""
        self._send(100.0).join(timeout=LAST_WAIT_S)

    def _progress(self, step: int, total: int, metrics: dict[str, Any]) -> None:
        now = time.monotonic()
        percent = 100.0 * step / max(total, 1)
        if self._updated and now - self._updated < PROGRESS_EVERY_S:
            return
        self._send(percent)
        self._updated = now
        if now - self._logged >= LOG_PROGRESS_EVERY_S or step == total:
            numbers = "  ".join(f"{name} {_short(value)}" for name, value in metrics.items())
            self._logger.info("%d/%d  %s", step, total, numbers)
            self._logged = now

    def _send(self, percent: float) -> threading.Thread:
        """Have the artifact brought up to date; the thread that does it."""
        with self._lock:
            self._wanted = percent
            if self._sender is None:
                context = contextvars.copy_context()  # names the run that the artifact belongs to
                self._sender = threading.Thread(
                    target=context.run, args=(self._send_wanted,), name="progress", daemon=True
                )
                self._sender.start()
            return self._sender

    def _send_wanted(self) -> None:
        """Publish what is wanted last, until nothing is."""
        while True:
            with self._lock:
                percent, self._wanted = self._wanted, None
                if percent is None:
                    self._sender = None
                    return
            self._publish(percent)

    def _publish(self, percent: float) -> None:
        """Bring the artifact up to date; a server that is away is no reason to end a stage that runs."""
        try:
            if self._artifact is None:
                artifact = create_progress_artifact(percent, key=self._key, description=self._key)
                assert isinstance(artifact, UUID)  # a coroutine only where an event loop calls
                self._artifact = artifact
            else:
                update_progress_artifact(self._artifact, percent)
        except httpx.HTTPError as error:
            self._logger.warning("progress not shown, the server does not answer: %s", error)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
