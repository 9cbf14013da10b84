"""What one rollout loop sees of an engine that runs elsewhere: its running requests, and the queue of their pieces."""

from contextlib import suppress
from queue import Empty, SimpleQueue

from tasks.shared.generation.protocol import Piece

STEP_S = 0.005  # how long a step waits for a piece; feedback that is ready waits for the step


class Asker:
    """The running requests of one loop. Another thread puts their pieces into `arrived`, or what ends the engine."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self.arrived: SimpleQueue[Piece | BaseException] = SimpleQueue()

    @property
    def num_running(self) -> int:
        """Requests queued or decoding."""
        return len(self._running)

    def step(self) -> list[Piece]:
        """The pieces that ended; waits STEP_S for one. Raises what ended the engine."""
        pieces: list[Piece] = []
        timeout = STEP_S if self._running else 0.0
        with suppress(Empty):
            while True:
                found = self.arrived.get(timeout > 0, timeout)
                if isinstance(found, BaseException):
                    self.arrived.put(found)  # for the next step too
                    raise found
                timeout = 0.0
                if found.request_id in self._running:  # else it was aborted meanwhile
                    self._running.remove(found.request_id)
                    pieces.append(found)
        return pieces
