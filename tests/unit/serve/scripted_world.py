"""A resident with a scripted model and a real interpreter."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import uvicorn

from tasks.serve.config import ServeConfig
from tasks.serve.conversation import Prompts
from tasks.serve.request import ServeRequest
from tasks.serve.resident import Resident
from tasks.serve.serve import KEEP_S, Server, listening_socket
from tasks.serve.server import make_app
from tasks.shared.config import EvaluateStage
from tasks.shared.generation.interleave import RolloutPolicy
from tasks.shared.generation.protocol import Sampling
from tasks.shared.tools.interpreter import make_interpreter
from tests.integration.evaluation_world import evaluate_stage
from tests.unit.generation.scripted import ScriptedGenerator
from tests.unit.generation.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CALL = "Compute.\n<code>\n```python\nprint(6 * 7)\n```\n</code>"
SHOWN = "\n<interpreter>\n42\n</interpreter>\n"
ANSWER = "<answer>\n\\boxed{42}\n</answer>"


class BySample(dict[str, str]):
    """Script i for sample i of any request."""

    def __init__(self, scripts: Sequence[str]) -> None:
        super().__init__()
        self._scripts = scripts

    def __missing__(self, request_id: str) -> str:
        return self._scripts[int(request_id.rpartition("/")[2]) % len(self._scripts)]


def small_stage(**generation: object) -> EvaluateStage:
    """The sections of a small evaluation with room for a trace with code."""
    stage = evaluate_stage()
    changed = {"max_response_tokens": 200, "max_prompt_tokens": 200} | generation
    return stage.model_copy(update={"generation": stage.generation.model_copy(update=changed)})


@contextmanager
def scripted(scripts: Sequence[str], stage: EvaluateStage | None = None) -> Iterator[Resident]:
    """A resident whose sample i says `scripts[i]`."""
    with scripted_with(ScriptedGenerator(TOKENIZER, BySample(scripts)), stage or small_stage()) as resident:
        yield resident


class Continuing(ScriptedGenerator):
    """A model asked turn by turn: it writes a call, or an answer after an output."""

    def __init__(self, call: str = CALL, answer: str = ANSWER) -> None:
        super().__init__(TOKENIZER, {})
        self._call, self._answer = call, answer

    def add(self, request_id: str, ids: Sequence[int], **asked: Any) -> None:
        """Add a request, whose prompt decides the response."""
        answered = "</interpreter>" in TOKENIZER.decode(list(ids))
        self._scripts = BySample([self._answer if answered else self._call])
        super().add(request_id, ids, **asked)


@contextmanager
def scripted_with(generator: ScriptedGenerator, stage: EvaluateStage) -> Iterator[Resident]:
    """A resident with that generator."""
    policy = RolloutPolicy.of(stage.traces, stage.sandbox, stage.generation, Sampling())
    with make_interpreter(stage.sandbox) as interpreter:
        prompts = Prompts(TOKENIZER, stage)
        resident = Resident(
            generator, interpreter, TOKENIZER, replace(policy, schedule_steps=None), prompts, 1024
        )
        try:
            yield resident
        finally:
            resident.close()


@contextmanager
def served(resident: Resident, key: str = "", **serve: Any) -> Iterator[str]:
    """Serve the resident in a thread; the address."""
    request = ServeRequest(
        name="m", checkpoint="/c", config=small_stage(), serve=ServeConfig(**serve), scratch="/s"
    )
    with listening_socket("127.0.0.1", 0) as listener:
        config = uvicorn.Config(
            make_app(resident, request, key), log_level="warning", timeout_keep_alive=KEEP_S
        )
        server = Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def samples_alive(address: str) -> int:
    """Samples that the server counts."""
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return int(float(next(line for line in lines if line.startswith("tirflow_samples_alive ")).split()[1]))
