"""What a backend offers: start a stage on its request, hand out its output lines, end it with all it started."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tasks.shared.config import StageConfig
from tasks.shared.contract.guarded import Exit
from tasks.shared.contract.spec import StageSpec


class Away(ValueError):
    """What stages run in does not answer; worth another attempt where work has begun. One line, with the remedy."""


class RunningStage(Protocol):
    """A stage that was started."""

    def lines(self) -> Iterator[str]:
        """Its stdout line by line, without line ends, until it has ended."""

    def wait(self) -> Exit:
        """How it ended."""

    def stop(self) -> None:
        """End it and everything it started: asked first, killed after a grace. Harmless when it has ended already.

        May be called from another thread than the one that reads `lines`.
        """


class Backend(Protocol):
    """Where stages run."""

    def identity(self, spec: StageSpec[Any], config: StageConfig) -> str:
        """What of its environment a stage with this configuration depends on: the versions of libraries.

        Raises ValueError, one line, if what the configuration needs is not there.
        """

    def find(self, request_path: Path, log_path: Path) -> RunningStage | None:
        """The stage that an earlier launcher, now dead, started on this request, if it outlived its launcher.

        Raises Away.
        """

    def start(self, request_path: Path, log_path: Path, lock: int) -> RunningStage:
        """Start `python -m tasks.<stage>.main <request_path>`.

        Its stderr is appended to `log_path`. `lock` is a descriptor that must stay open as long as anything of the
        stage lives: it keeps a second run out of the same scratch directory. Raises Away.
        """
