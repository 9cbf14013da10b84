"""An engine in a process of its own, which samples while this process trains (`generation.placement = "beside"`).

The process (`beside_process.py`) ends with this one, however that ends. Messages are sent in order on one connection;
answers return on another, and pieces on a third, where a thread gives them to their loops. So one thread may `step` and
`extend`, a second loop do the same in another thread, and a third send weights and ask for scores. Only the first rank
of a trainer asks; the others have a `Follower`.
"""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Unpack

import torch

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.generation.asker import Asker
from tasks.shared.generation.pool.weights import buckets
from tasks.shared.generation.protocol import Bounds, RequestOptions
from tasks.shared.learning.distributed import from_first_rank

END_S = 10.0
PROCESS = "tasks.shared.generation.beside_process"


class BesideAsker(Asker):
    """What one rollout loop asks of the process (`Decodes`), beside other loops."""

    def __init__(self, send: Callable[..., None], number: int = 0) -> None:
        """`send` sends a message to the process; `number` distinguishes this loop's requests from those of others."""
        super().__init__()
        self._send = send
        self._number = number

    def add(self, request_id: str, ids: Sequence[int], **options: Unpack[RequestOptions]) -> None:
        """Queue a request, see `Decodes.add`; a refusal is raised by a later `step`."""
        self._ask_for_piece("add", request_id, ids, options)

    def extend(self, request_id: str, ids: Sequence[int], **bounds: Unpack[Bounds]) -> None:
        """Append feedback ids and continue, see `Decodes.extend`."""
        self._ask_for_piece("extend", request_id, ids, bounds)

    def _ask_for_piece(self, name: str, request_id: str, ids: Sequence[int], options: Bounds) -> None:
        self._running.add(request_id)
        self._send(name, f"{self._number}:{request_id}", list(ids), options)

    def release(self, request_id: str) -> None:
        """Forget a finished request."""
        self._send("release", f"{self._number}:{request_id}")

    def abort(self, request_id: str) -> None:
        """Forget a request in any state; drop a piece of it that is on its way."""
        self._running.discard(request_id)
        self._send("abort", f"{self._number}:{request_id}")


class BesideGenerator(BesideAsker):
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
        super().__init__(self._send_message)
        self._askers: list[BesideAsker] = [self]
        self._sending = threading.Lock()
        self._listener = threading.Thread(target=self._listen, name="pieces", daemon=True)
        self._listener.start()
        self._ask("start", config, model_config, checkpoint)

    def beside(self) -> BesideAsker:
        """A second loop's way to this engine, in a thread of its own."""
        self._askers.append(BesideAsker(self._send_message, len(self._askers)))
        return self._askers[-1]

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
        self._requests.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:  # in the middle of a long pass
            self._process.kill()
            self._process.wait()
        self._listener.join()
        self._pieces.close()
        self._answers.close()

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

    def _listen(self) -> None:
        """Distribute the pieces to the loops that asked for them, until the process ends."""
        with suppress(EOFError, OSError):  # at the end of the process, in or between messages
            while True:
                found = self._pieces.recv()
                if isinstance(found, Exception):
                    self._give_all(found)
                    continue
                for piece in found:
                    number, _, request_id = piece.request_id.partition(":")
                    self._askers[int(number)].arrived.put(replace(piece, request_id=request_id))
        self._give_all(self._death())

    def _give_all(self, error: BaseException) -> None:
        for asker in self._askers:
            asker.arrived.put(error)

    def _ask(self, name: str, *arguments: Any) -> Any:
        """Send a message and wait for its answer; raised if it is an error."""
        self._send(name, *arguments)
        try:
            answer = self._answers.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _death(self) -> BaseException:
        """The error to raise: for a process that a signal killed, an exit with the shell's code for that signal."""
        code = self._process.wait()
        if code < 0:
            return SystemExit(128 - code)
        return RuntimeError(f"the sampler's process ended with status {code}; its traceback is above")
