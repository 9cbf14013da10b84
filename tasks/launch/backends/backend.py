"""The protocol of backends: start a stage on its request, yield its output lines, end it with all its processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tasks.shared.config import StageConfig
from tasks.shared.contract.guarded import Exit
from tasks.shared.contract.spec import StageSpec


class Away(ValueError):
    """The backend does not answer, and another attempt may succeed. The message is one line with the remedy."""


class RunningStage(Protocol):
    """A started stage."""

    def lines(self) -> Iterator[str]:
        """Yield its stdout line by line, without line ends, until it has ended."""

    def wait(self) -> Exit:
        """Wait for its end, and return the exit."""

    def stop(self) -> None:
        """End it and everything it started, by SIGTERM and after a grace period by SIGKILL. May be called again.

        May be called from another thread than the one that reads `lines`.
        """


class Backend(Protocol):
    """Runs stages."""

    def identity(self, spec: StageSpec[Any], config: StageConfig) -> str:
        """Return the versions of libraries that a stage with this configuration depends on.

        Raises ValueError if something that the configuration needs is missing.
        """

    def find(self, request_path: Path, log_path: Path) -> RunningStage | None:
        """Return the stage of this request that outlived its launcher, or None. Raises Away."""

    def start(self, request_path: Path, log_path: Path, lock: int) -> RunningStage:
        """Start `python -m tasks.<stage>.main <request_path>`.

        Its stderr is appended to `log_path`. `lock` is a descriptor that must stay open as long as anything of the
        stage lives: it keeps a second run out of the same scratch directory. Raises Away.
        """
