"""An engine in a process of its own, which samples while this process trains (`generation.placement = "beside"`).

The process (`beside_process.py`) ends with this one, however that ends. Messages are sent in order on one connection;
pieces and answers return on one connection each. So one thread may `step` and `extend`, a second loop do the same in
another thread, and a third send weights and ask for scores. Only the first rank of a trainer asks; the others have a
`Follower`.
"""

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Unpack

import torch

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.generation.pool.weights import buckets
from tasks.shared.generation.protocol import Bounds, Piece, RequestOptions
from tasks.shared.learning.distributed import from_first_rank

STEP_S = 0.005  # how long a step waits for a piece; feedback that is ready waits for the step
END_S = 10.0
PROCESS = "tasks.shared.generation.beside_process"


class Asker:
    """What one rollout loop asks of the engine (`Decodes`), beside other loops."""

    def __init__(self, send: Callable[..., None], receive: Callable[[float], None], prefix: str = "") -> None:
        """`send` sends a message to the process; `receive` distributes the received pieces to their loops.

        `prefix` distinguishes this loop's requests from those of others.
        """
        self._send = send
        self._receive = receive
        self._prefix = prefix
        self._running: set[str] = set()
        self._arrived: deque[Piece] = deque()

    def add(self, request_id: str, ids: Sequence[int], **options: Unpack[RequestOptions]) -> None:
        """Queue a request, see `Decodes.add`; a refusal is raised by a later `step`."""
        self._ask_for_piece("add", request_id, ids, options)

    def extend(self, request_id: str, ids: Sequence[int], **bounds: Unpack[Bounds]) -> None:
        """Append feedback ids and continue, see `Decodes.extend`."""
        self._ask_for_piece("extend", request_id, ids, bounds)

    def _ask_for_piece(self, name: str, request_id: str, ids: Sequence[int], options: Bounds) -> None:
        self._running.add(request_id)
        self._send(name, self._prefix + request_id, list(ids), options)

    def release(self, request_id: str) -> None:
        """Forget a finished request."""
        self._send("release", self._prefix + request_id)

    def abort(self, request_id: str) -> None:
        """Forget a request in any state; drop a piece of it that is on its way."""
        self._running.discard(request_id)
        self._send("abort", self._prefix + request_id)

    @property
    def num_running(self) -> int:
        """Requests queued or decoding."""
        return len(self._running)

    def step(self) -> list[Piece]:
        """The pieces that ended; waits STEP_S for one. Raises what the engine raised."""
        self._receive(STEP_S if self._running and not self._arrived else 0.0)
        pieces = []
        while self._arrived:
            piece = self._arrived.popleft()
            if piece.request_id in self._running:  # else it was aborted meanwhile
                self._running.remove(piece.request_id)
                pieces.append(piece)
        return pieces

    def owns(self, piece: Piece) -> bool:
        """Whether this loop asked for it."""
        return piece.request_id.startswith(self._prefix)

    def take(self, piece: Piece) -> None:
        """Receive a piece of this loop; called in the thread of any loop."""
        self._arrived.append(replace(piece, request_id=piece.request_id.removeprefix(self._prefix)))


class BesideGenerator(Asker):
    """A `Generator` that `NamesDifferences` and `AsksBeside`. Close it."""

    def __init__(self, config: GenerationConfig, model_config: ModelConfig, checkpoint: Path) -> None:
        """Start the process with the checkpoint's weights. ValueError, with the remedy, if the engine cannot run."""
        self._pieces, pieces = Pipe(duplex=False)
        self._answers, answers = Pipe(duplex=False)
        requests, self._requests = Pipe(duplex=False)
        theirs = (requests, pieces, answers)
        numbers = [str(connection.fileno()) for connection in theirs]
        self._process = subprocess.Popen(
            [sys.executable, "-m", PROCESS, *numbers],
            pass_fds=[connection.fileno() for connection in theirs],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),  # this process's own stdout carries the stage's events
        )
        for connection in theirs:
            connection.close()
        super().__init__(self._send_message, self._receive_pieces)
        self._beside: list[Asker] = []
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._ask("start", config, model_config, checkpoint)

    def beside(self, name: str) -> Asker:
        """A second loop's way to this engine, in a thread of its own."""
        asker = Asker(self._send_message, self._receive_pieces, f"{name}:")
        self._beside.append(asker)
        return asker

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over the trainer's parameters; running requests continue with them."""
        self._send_weights(weights)
        self._ask("load")

    def differing(self, weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
        """Names of tensors that are not what `load_weights(weights)` would leave."""
        self._send_weights(weights)
        names: list[str] = self._ask("differing")
        return from_first_rank(names)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob of every token given those before it, by the engine's own weights."""
        scores: list[list[float]] = self._ask("score", [list(ids) for ids in sequences])
        return from_first_rank(scores)

    def close(self) -> None:
        """End the process."""
        for connection in (self._requests, self._pieces, self._answers):
            connection.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:  # in the middle of a long pass
            self._process.kill()
            self._process.wait()

    def _send_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        from safetensors.torch import save

        for group in buckets(weights, "cpu"):
            self._send("weights", save(group))

    def _send_message(self, name: str, *arguments: Any) -> None:
        try:
            with self._sending:
                self._requests.send((name, *arguments))
        except OSError as error:
            raise self._death() from error

    def _receive_pieces(self, timeout: float) -> None:
        """Distribute the pieces that are there, or arrive within `timeout`, to their loops."""
        if not self._receiving.acquire(timeout=timeout):
            return  # another loop receives, and distributes
        try:
            while self._pieces.poll(timeout):
                for piece in self._received(self._pieces):
                    next(asker for asker in (*self._beside, self) if asker.owns(piece)).take(piece)
                timeout = 0.0
        finally:
            self._receiving.release()

    def _ask(self, name: str, *arguments: Any) -> Any:
        self._send(name, *arguments)
        return self._received(self._answers)

    def _received(self, connection: "Connection[Any, Any]") -> Any:
        """The next object; raised if it is an error."""
        try:
            found = connection.recv()
        except EOFError as error:
            raise self._death() from error
        if isinstance(found, Exception):
            raise found
        return found

    def _death(self) -> BaseException:
        """The error to raise: for a process that a signal killed, an exit with the shell's code for that signal."""
        code = self._process.wait()
        if code < 0:
            return SystemExit(128 - code)
        return RuntimeError(f"the sampler's process ended with status {code}; its traceback is above")
