"""Rows are admitted while an engine's cache has room, so a row returning from its code finds its prefix."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.shared.config.generation import GenerationConfig
from tasks.shared.generation import engines
from tasks.shared.generation.admission import Admission, Room
from tasks.shared.generation.engines import on_every_gpu, open_generator
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Piece, Sampling
from tasks.shared.sandbox import ExecutionResult, Status
from tasks.shared.traces.dialect import DIALECTS
from tests.unit.generation.scripted import ScriptedGenerator
from tests.unit.generation.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SCRIPT = "Compute.\n<code>\n```python\nprint(1)\n```\n</code>" * 3 + "<answer>\n\\boxed{1}\n</answer>"
ROWS, PROMPT, BUDGET = 60, 20, 400


class Caching(ScriptedGenerator):
    """Decodes `rows` in parallel, first come first served; evicts least recently used prefixes, as vLLM does."""

    def __init__(self, rows: int, tokens: int) -> None:
        super().__init__(TOKENIZER, {f"p/{i}": SCRIPT for i in range(ROWS)})
        self.rows, self.tokens = rows, tokens
        self.cached: OrderedDict[str, int] = OrderedDict()  # tokens of each row, in order of use
        self.computed = 0
        self._queued: list[str] = []

    def add(self, request_id: str, ids: Sequence[int], **options: Any) -> None:
        super().add(request_id, ids, **options)
        self._queue(request_id)

    def extend(self, request_id: str, ids: Sequence[int], **options: Any) -> None:
        super().extend(request_id, ids, **options)
        self._queue(request_id)

    def _queue(self, request_id: str) -> None:
        self._requests[request_id].running = False
        self._queued.append(request_id)

    @property
    def num_running(self) -> int:
        return super().num_running + len(self._queued)

    def step(self) -> list[Piece]:
        while self._queued and super().num_running < self.rows:
            name = self._queued.pop(0)
            self.computed += len(self._requests[name].context) - self.cached.get(name, 0)
            self._requests[name].running = True
        for name, request in self._requests.items():
            if request.running:
                self.computed += 1
                self.cached[name] = len(request.context) + 1
                self.cached.move_to_end(name)
        running = {name for name, request in self._requests.items() if request.running}
        while sum(self.cached.values()) > self.tokens:
            del self.cached[next(name for name in self.cached if name not in running)]
        return super().step()

    def release(self, request_id: str) -> None:
        super().release(request_id)
        self.cached.move_to_end(request_id, last=False)


class CachingWithRoom(Caching):
    """The same with its room as an attribute."""

    @property
    def room(self) -> Room:
        return Room(self.rows, self.tokens)


class Slow:
    """Programs that end after a number of polls; other rows decode meanwhile."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    def submit(self, code: str, session: str | None = None, limits: object = None) -> Future[ExecutionResult]:
        future: Future[ExecutionResult] = Future()
        left = self._looks

        def done() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        future.set_result(ExecutionResult(Status.OK, "1\n", "", "", 0.1, 1.0))
        future.done = done  # type: ignore[method-assign]
        return future


def computed(generator: Caching) -> float:
    """Computed tokens, as a ratio to all tokens."""
    policy = RolloutPolicy(
        dialect=DIALECTS["retool"],
        max_calls=3,
        announce_remaining_calls=False,
        error_feedback="full",
        stateful=False,
        sampling=Sampling(),
        max_response_tokens=BUDGET,
    )
    requests = [RolloutRequest("p", i, tuple(range(PROMPT)), i) for i in range(ROWS)]
    interpreter: Any = Slow(looks=30)
    finished = list(rollout(requests, generator, interpreter, TOKENIZER, policy))
    assert sorted(trajectory.sample for trajectory in finished) == list(range(ROWS))
    return generator.computed / sum(PROMPT + len(trajectory.response_ids) for trajectory in finished)


def test_admission_computes_each_row_once() -> None:
    rows, tokens = 6, 2000
    assert computed(Caching(rows, tokens)) > 1.5
    assert computed(CachingWithRoom(rows, tokens)) < 1.05


def test_an_engine_too_small_for_one_row_gets_one_at_a_time() -> None:
    generator = CachingWithRoom(4, 150)
    generator.tokens = 10**6  # of the cache, which only the room limits
    generator_room = Room(4, 10)
    admission = Admission(generator_room, BUDGET)
    assert not admission.allows(1, [(PROMPT, 0), (PROMPT, 3)])
    assert computed(generator) == pytest.approx(1.0, abs=0.05)


def test_rows_are_admitted_by_the_mean_response_length() -> None:
    admission = Admission(Room(100, 1000), max_response_tokens=600)
    alive = [(50, 10)] * 2
    assert not admission.allows(2, [(50, 0), *alive])  # 3 x (50 + 300)
    admission.ended(100)
    admission.ended(200)
    assert admission.allows(2, [(50, 0), *alive])  # 3 x (50 + 150)
    assert not admission.allows(2, [(50, 0), (50, 640), (50, 10)])  # one is already longer
    assert not admission.allows(100, [(50, 0)])


def test_a_stage_that_trains_nothing_samples_on_every_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Evaluation and synthesis by an engine use a server per GPU; each of RL's ranks has an engine."""
    opened: list[Any] = []

    def pool(config: GenerationConfig, *_: object) -> Iterator[str]:
        opened.append(config.pool.servers)
        yield "pool"

    monkeypatch.setattr("tasks.shared.generation.pool.server.gpus_of_host", lambda: ["0", "1", "2"])
    monkeypatch.setattr("tasks.shared.generation.pool.opening.open_pool", engines.contextmanager(pool))
    monkeypatch.setattr(engines, "make_generator", lambda *_: opened.append("inside"))
    monkeypatch.setattr(engines, "stop_ids_of", lambda *_: frozenset({0}))
    config, other = GenerationConfig(), GenerationConfig(engine="transformers")
    tokenizer: Any = SimpleNamespace(eos_token_id=0)
    for each, training in ((config, 0), (config, 3), (other, 0)):
        model: Any = None
        with open_generator(each, model, tmp_path, tokenizer, scratch=tmp_path, num_training=training):
            pass
    assert opened == [3, "inside", "inside"]
    assert on_every_gpu(config, 1) is config
