"""Programs under which a worker was lost: who is to blame, the sandbox or the program?

A worker may die by an outage, which is nobody's fault and is made good by running its programs again. But an outage
that a program could cause at will would be its way out of every verdict. So each program that a worker was lost under
runs again alone, on the worker that took the place of the lost one. If that is lost too, an empty program runs there:
when it ends well, workers can be kept, and the loss was the program's doing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from tasks.shared.sandbox.executions import Execution


class Suspects:
    """Who is to run alone, by worker; such a worker takes nothing else until all of them have ended."""

    def __init__(self) -> None:
        self._lines: dict[int, deque[Execution]] = {}
        self._running: dict[int, Execution] = {}

    def __iter__(self) -> Iterator[Execution]:
        """Those that wait."""
        return (execution for line in self._lines.values() for execution in line)

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._lines.values()))

    @property
    def workers(self) -> set[int]:
        """Numbers of the workers that are kept for them."""
        return {*self._lines, *self._running}

    @property
    def next_workers(self) -> list[int]:
        """Workers on which the next of a line may start."""
        return [worker for worker in self._lines if worker not in self._running]

    def add(self, execution: Execution, worker: int, first: bool = False) -> None:
        """Let it run alone on that worker."""
        execution.alone = worker
        line = self._lines.setdefault(worker, deque())
        line.appendleft(execution) if first else line.append(execution)

    def start(self, worker: int) -> Execution:
        """The next of a line, which now runs."""
        execution = self._running[worker] = self._lines[worker].popleft()
        if not self._lines[worker]:
            del self._lines[worker]
        return execution

    def leave(self, execution: Execution) -> None:
        """It has ended, or is withdrawn."""
        worker = execution.alone
        if worker is None:
            return
        if self._running.get(worker) is execution:
            del self._running[worker]
        elif execution in self._lines.get(worker, ()):
            self._lines[worker].remove(execution)
            if not self._lines[worker]:
                del self._lines[worker]
