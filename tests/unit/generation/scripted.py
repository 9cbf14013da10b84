"""A scripted `Generator`: each request samples given words or ids, one token a step. A fake for tests of the loop."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Unpack

from transformers import PreTrainedTokenizerBase

from tasks.shared.generation.protocol import Piece, RequestOptions
from tasks.shared.generation.stops import StopFinder


@cache
def finder(tokenizer: PreTrainedTokenizerBase, stop: str) -> StopFinder:
    """One finder per vocabulary: a real one has 150,000 tokens."""
    return StopFinder(tokenizer, stop)


@dataclass(slots=True)
class _Scripted:
    words: list[int]  # not yet sampled
    context: list[int]  # prompt and everything after it
    stop: str | None
    budget: int
    sampled: list[int] = field(default_factory=list)
    running: bool = True


class ScriptedGenerator:
    """Samples `scripts[request id]` and the end of turn, whatever the feedback; each log-prob is -0.5."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, scripts: Mapping[str, str | Sequence[int]]
    ) -> None:
        self._tokenizer = tokenizer
        self._scripts = scripts
        self._requests: dict[str, _Scripted] = {}
        self.contexts: dict[str, list[tuple[int, ...]]] = {}  # the context at each add and extend
        self.stops: dict[str, list[str | None]] = {}
        self.steps_at: dict[str, list[int]] = {}  # step of each extend
        self.num_steps = 0

    def add(self, request_id: str, ids: Sequence[int], **options: Unpack[RequestOptions]) -> None:
        script = self._scripts[request_id]
        if isinstance(script, str):
            script = self._tokenizer.encode(script, add_special_tokens=False)
        words = [*script, self._tokenizer.eos_token_id]
        self._requests[request_id] = _Scripted(words, list(ids), options["stop"], options["max_new_tokens"])
        self.contexts[request_id], self.stops[request_id] = [tuple(ids)], [options["stop"]]
        self.steps_at[request_id] = []

    def extend(self, request_id: str, ids: Sequence[int], *, stop: str | None, max_new_tokens: int) -> None:
        request = self._requests[request_id]
        assert not request.running
        request.context += ids
        request.stop, request.budget, request.sampled, request.running = stop, max_new_tokens, [], True
        self.contexts[request_id].append(tuple(request.context))
        self.stops[request_id].append(stop)
        self.steps_at[request_id].append(self.num_steps)

    def release(self, request_id: str) -> None:
        del self._requests[request_id]

    @property
    def num_running(self) -> int:
        return sum(request.running for request in self._requests.values())

    def step(self) -> list[Piece]:
        self.num_steps += 1
        pieces = []
        for request_id, request in self._requests.items():
            if not request.running:
                continue
            token = request.words.pop(0)
            request.sampled.append(token)
            request.context.append(token)
            request.budget -= 1
            if token == self._tokenizer.eos_token_id:
                reason = "eos"
            elif request.stop and finder(self._tokenizer, request.stop).found(request.sampled):
                reason = "stop"
            elif request.budget == 0:
                reason = "length"
            else:
                continue
            request.running = False
            pieces.append(Piece(request_id, tuple(request.sampled), (-0.5,) * len(request.sampled), reason))
        return pieces

    def load_weights(self, weights: Iterable[object]) -> None:
        raise AssertionError("a script has no weights")

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[0.0] + [-0.5] * (len(ids) - 1) for ids in sequences]
