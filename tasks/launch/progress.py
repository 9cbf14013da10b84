"""A stage's events as Prefect logs and one progress artifact, at limited rates; the full log is a file."""

import re
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from tasks.shared.execution.execute import Event

PROGRESS_EVERY_S = 2.0
LOG_PROGRESS_EVERY_S = 15.0


class ProgressReport:
    """Turns a stage's events into Prefect logs and one progress artifact; rates are limited, the full log is a file."""

    def __init__(self, key: str, log_path: Path) -> None:
        """`key`: names the artifact."""
        self._logger = get_run_logger()
        self._key = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")
        self._artifact: UUID | None = None
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
        """Mark the progress as complete."""
        self._publish(100.0)

    def _progress(self, step: int, total: int, metrics: dict[str, Any]) -> None:
        now = time.monotonic()
        percent = 100.0 * step / max(total, 1)
        if self._artifact is not None and now - self._updated < PROGRESS_EVERY_S:
            return
        self._publish(percent)
        self._updated = now
        if now - self._logged >= LOG_PROGRESS_EVERY_S or step == total:
            numbers = "  ".join(f"{name} {_short(value)}" for name, value in metrics.items())
            self._logger.info("%d/%d  %s", step, total, numbers)
            self._logged = now

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
