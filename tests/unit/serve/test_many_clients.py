"""Many clients stream, disconnect, stop early and lose programs at once: each gets the reply of its own request."""

import asyncio
import json
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import httpx

from tasks.serve.conversation import Message, Prompts
from tasks.serve.resident import Resident
from tasks.shared.generation.interleave import RolloutPolicy
from tasks.shared.generation.protocol import Sampling
from tasks.shared.sandbox.records import ExecutionResult, Status, sandbox_failure
from tests.unit.generation.scripted import ScriptedGenerator
from tests.unit.generation.tiny import tiny_tokenizer
from tests.unit.serve.scripted_world import samples_alive, served, small_stage
from tests.waiting import until

TOKENIZER = tiny_tokenizer()
CONTROL = set(TOKENIZER.all_special_ids)
REQUESTS, CLIENTS = 500, 48


def question(number: int) -> str:
    """The question of a request."""
    return f"Question {number}"


def call(number: int, sample: int) -> str:
    """The text of a sample before its output."""
    return f"{number}, {sample}.\n<code>\n```python\nprint({number}, {sample})\n```\n</code>"


def output(number: int, sample: int) -> str:
    """The output, which contains a control token."""
    return f"\n<interpreter>\n{number} {sample} <|end|>\n</interpreter>\n"


def answer(number: int, sample: int) -> str:
    """The text after the output."""
    return f"<answer>\n\\boxed{{{number}}} {sample}\n</answer>"


class Knows(ScriptedGenerator):
    """Answers questions by their exact ids. It can be followed and aborted."""

    def __init__(self, known: dict[tuple[int, ...], int]) -> None:
        super().__init__(TOKENIZER, {})
        self._known = known

    def add(self, request_id: str, ids: Sequence[int], **how: Any) -> None:
        """As a generator."""
        number, sample = self._known.get(tuple(ids)), int(request_id.rpartition("/")[2])
        says = "This prompt is nobody's." if number is None else call(number, sample) + answer(number, sample)
        self._scripts = {request_id: says}
        super().add(request_id, ids, **how)

    def extend(self, request_id: str, ids: Sequence[int], **how: Any) -> None:
        """AssertionError where an output brings a control token."""
        assert not CONTROL & set(ids), "a program's output was read as a control token"
        super().extend(request_id, ids, **how)

    def sampled(self, request_id: str) -> Sequence[int]:
        """As one that `Follows`."""
        request = self._requests[request_id]
        return request.sampled if request.running else ()

    def abort(self, request_id: str) -> None:
        """As one that `Aborts`."""
        self.release(request_id)

    @property
    def alive(self) -> int:
        """Requests that it holds."""
        return len(self._requests)


class Failing:
    """A slow interpreter that fails on the first attempt of every eighth program."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def submit(self, code: str, session: str | None = None) -> "Future[ExecutionResult]":
        """The output of `print`, with a control token."""
        future: Future[ExecutionResult] = Future()
        numbers = code.strip().removeprefix("print(").removesuffix(")").replace(",", "")
        result = ExecutionResult(Status.OK, f"{numbers} <|end|>\n", "", "", 0.001, 1.0)
        if fails(int(numbers.split()[0])) and code not in self._given:
            result = sandbox_failure("lost")
        self._given.add(code)
        threading.Timer(0.001 * random.random(), future.set_result, [result]).start()
        return future

    def health(self) -> dict[str, Any]:
        """No figures."""
        return {}


def fails(number: int) -> bool:
    """True once if the sandbox fails on the program."""
    return number % 8 == 0


@contextmanager
def often_switching() -> Iterator[None]:
    """Threads switch a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


async def whole(client: httpx.AsyncClient, number: int, samples: int, **more: Any) -> list[dict[str, Any]]:
    """The messages of a reply."""
    body = {"model": "m", "messages": [{"role": "user", "content": question(number)}], "n": samples} | more
    reply = (await client.post("/v1/chat/completions", json=body)).json()
    assert "choices" in reply, reply
    return [choice["message"] for choice in reply["choices"]]


async def streamed(client: httpx.AsyncClient, number: int, samples: int, leaves_after: int) -> list[str]:
    """The text of each sample, up to the event at which the client disconnects."""
    texts = [""] * samples
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": question(number)}],
        "n": samples,
        "stream": True,
    }
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        events = 0
        async for line in reply.aiter_lines():
            events += 1
            if events > leaves_after or line == "data: [DONE]":
                break
            if not line:
                continue
            result = json.loads(line.removeprefix("data: "))
            if "error" in result:  # a output text is never retracted
                assert fails(number) and result["error"]["code"] == "sandbox"
                break
            for choice in result["choices"]:
                texts[choice["index"]] += choice["delta"].get("content") or ""
    return texts


async def one(client: httpx.AsyncClient, number: int) -> None:
    """Send a request of the kind of its number. AssertionError if the reply is another's."""
    samples = 1 + number % 3
    expected = [call(number, i) + output(number, i) + answer(number, i) for i in range(samples)]
    kind = number % 7
    if kind < 2:
        messages = await whole(client, number, samples)
        assert [message["content"] for message in messages] == expected
        assert [message["answer"] for message in messages] == [str(number)] * samples
    elif kind == 2:
        messages = await whole(client, number, samples, interpreter="field")
        assert [message["content"] for message in messages] == [
            text.replace(output(number, i), "") for i, text in enumerate(expected)
        ]
    elif kind == 3 and not fails(number):
        messages = await whole(client, number, samples, stop=["boxed"])
        assert [message["content"] for message in messages] == [
            text[: text.index("boxed")] for text in expected
        ]
    elif kind == 4:
        leaving = asyncio.create_task(whole(client, number, samples))
        await asyncio.wait({leaving}, timeout=0.05 * random.random())
        leaving.cancel()
    else:
        leaves_after = 2 + number % 20 if kind == 5 else sys.maxsize
        texts = await streamed(client, number, samples, leaves_after)
        assert all(text.startswith(part) for part, text in zip(texts, expected, strict=True))
        assert kind == 5 or fails(number) or texts == expected


async def everyone(address: str) -> None:
    """Send all requests from the given number of clients."""
    numbers = iter(range(REQUESTS))

    async def work() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            for number in numbers:
                await one(client, number)

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(work())


def test_every_reply_is_that_of_its_own_request() -> None:
    stage = small_stage(max_sequences=256)
    known = {Prompts(TOKENIZER, stage).of([Message("user", question(n))]): n for n in range(REQUESTS)}
    generator, interpreter = Knows(known), Failing()
    policy = RolloutPolicy.of(stage.traces, stage.sandbox, stage.generation, Sampling())
    resident = Resident(generator, interpreter, TOKENIZER, policy, Prompts(TOKENIZER, stage), 1024)
    try:
        with often_switching(), served(resident, max_queue=10_000) as address:
            asyncio.run(everyone(address))
            until(lambda: samples_alive(address) == 0, "samples of clients who left are still there")
    finally:
        resident.close()
    assert isinstance(resident.failed, ConnectionAbortedError), "the engine failed"
    assert generator.alive == 0, "samples of clients who left are still there"
