"""Programs under which a worker was lost. They run again to find out whether the sandbox or the program is the cause.

After an outage, programs run again. But a program that could cause an outage at will could escape every error. So each
program under which a worker was lost runs again, alone, on the worker that replaces the lost one. If that is lost too,
an empty program runs there. If the empty program ends well, the loss was the program's doing.
"""

from __future__ import annotations

from collections.abc import Iterator

from tasks.shared.sandbox.executions import Execution


class Suspects:
    """The programs to run alone, by worker. Such a worker takes no other program until all of them have ended."""

    def __init__(self) -> None:
        self._waiting: list[Execution] = []
        self._running: dict[int, Execution] = {}

    def __iter__(self) -> Iterator[Execution]:
        """Iterate over the waiting programs."""
        return iter(self._waiting)

    def __len__(self) -> int:
        """Count the waiting programs."""
        return len(self._waiting)

    @property
    def workers(self) -> set[int]:
        """The workers that are reserved for suspects."""
        return {
            *self._running,
            *(execution.alone for execution in self._waiting if execution.alone is not None),
        }

    @property
    def next_workers(self) -> set[int]:
        """The workers on which the next suspect may start."""
        return self.workers - self._running.keys()

    def add(self, execution: Execution, worker: int, first: bool = False) -> None:
        """Let a program run alone on that worker."""
        execution.alone = worker
        self._waiting.insert(0 if first else len(self._waiting), execution)

    def start(self, worker: int) -> Execution:
        """Return the next suspect of a worker, which now runs."""
        execution = next(execution for execution in self._waiting if execution.alone == worker)
        self._waiting.remove(execution)
        self._running[worker] = execution
        return execution

    def leave(self, execution: Execution) -> None:
        """Remove a program that has ended or was withdrawn."""
        if execution in self._waiting:
            self._waiting.remove(execution)
        elif execution.alone is not None and self._running.get(execution.alone) is execution:
            del self._running[execution.alone]
