"""The process of an engine that samples beside its caller: decodes, and handles messages between two steps.

    python -m tasks.shared.generation.beside_process REQUESTS PIECES ANSWERS

The arguments are descriptors of connections, see `beside.py`. The process ends when its caller closes them or dies.
"""

import os
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any

import torch

from tasks.shared.generation.engines import make_embedded
from tasks.shared.generation.transformers_engine import TransformersGenerator
from tasks.shared.learning.checkpoints import load_tokenizer

Message = tuple[Any, ...]


class Served:
    """The engine and its connections."""

    def __init__(self, requests: "Connection[Any, Any]", pieces: Connection, answers: Connection) -> None:
        self._pieces = pieces
        self._answers = answers
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._weights: list[bytes] = []
        threading.Thread(target=self._listen, args=(requests,), daemon=True).start()
        self._engine = self._start()

    def _listen(self, requests: "Connection[Any, Any]") -> None:
        """Receive messages at any time, so that a sender never waits."""
        while True:
            try:
                self._messages.put(requests.recv())
            except (EOFError, OSError):  # the caller is gone
                os._exit(0)

    def _start(self) -> TransformersGenerator:
        _, config, model_config, checkpoint = self._messages.get()
        try:
            engine = make_embedded(config, model_config, checkpoint, load_tokenizer(checkpoint))
        except ValueError as error:
            self._answers.send(error)
            raise SystemExit(2) from None
        self._answers.send(None)
        return engine

    def run(self) -> None:
        """Decode while there is something to decode, else wait for messages."""
        while True:
            for message in self._arrived(wait=not self._engine.num_running):
                self._do(*message)
            if self._engine.num_running and (found := self._engine.step()):
                self._pieces.send(found)

    def _arrived(self, wait: bool) -> Iterator[Message]:
        """The messages received so far; waits for at least one if asked to."""
        if wait:
            yield self._messages.get()
        while True:
            try:
                yield self._messages.get_nowait()
            except Empty:
                return

    def _do(self, name: str, *arguments: Any) -> None:
        if name in ("add", "extend"):
            request_id, ids, options = arguments
            try:
                getattr(self._engine, name)(request_id, ids, **options)
            except ValueError as error:  # it does not fit the engine: the caller's next step raises it
                self._pieces.send(error)
        elif name in ("release", "abort"):
            getattr(self._engine, name)(*arguments)
        elif name == "weights":
            self._weights.append(arguments[0])
        else:
            self._answers.send(self._answer(name, *arguments))

    def _answer(self, name: str, *arguments: Any) -> Any:
        try:
            if name == "load":
                return self._engine.load_weights(self._take_weights())
            if name == "differing":
                return self._engine.differing(self._take_weights())
            return self._engine.score(*arguments)
        except ValueError as error:  # tensors that do not fit: the caller raises it
            return error

    def _take_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        from safetensors.torch import load

        held, self._weights = self._weights, []
        for part in held:
            yield from load(part).items()


def main() -> None:
    """See above."""
    requests, pieces, answers = (int(number) for number in sys.argv[1:])
    Served(
        Connection(requests, writable=False),
        Connection(pieces, readable=False),
        Connection(answers, readable=False),
    ).run()


if __name__ == "__main__":
    main()
