"""Show a stage's events as Prefect logs and one progress artifact, at limited rates. A file has the full log."""

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

from tasks.launch.backends.attempt import Event

PROGRESS_EVERY_S = 2.0
LOG_PROGRESS_EVERY_S = 15.0
LAST_WAIT_S = 10.0  # for the artifact of a stage that has ended


class ProgressReport:
    """Turns a stage's events into Prefect logs and one progress artifact.

    Events come from the thread that empties the stage's pipe. Another thread sends the artifact: while the server is
    away the client retries for minutes, and a stage whose pipe is full stands still.
    """

    def __init__(self, key: str, log_path: Path) -> None:
        """`key` names the artifact."""
        self._logger = get_run_logger()
        self._key = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")
        self._artifact: UUID | None = None
        self._lock = threading.Lock()
        self._pending: float | None = None  # percent to send next
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
        """Mark the progress as complete, without a long wait for a server that does not answer."""
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
        """Update the artifact in the background. Returns the thread that does so."""
        with self._lock:
            self._pending = percent
            if self._sender is None:
                run = contextvars.copy_context().run  # the context names the run that the artifact belongs to
                self._sender = threading.Thread(
                    target=run, args=(self._send_pending,), name="progress", daemon=True
                )
                self._sender.start()
            return self._sender

    def _send_pending(self) -> None:
        """Publish the latest value until there is no newer one."""
        while True:
            with self._lock:
                percent, self._pending = self._pending, None
                if percent is None:
                    self._sender = None
                    return
            self._publish(percent)

    def _publish(self, percent: float) -> None:
        """Update the artifact. If the server is away, the stage still goes on."""
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
