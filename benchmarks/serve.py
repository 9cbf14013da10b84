"""64 clients of a server against the evaluation's loop: tokens a second, nothing lost, nothing mixed up.

    OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.serve --seconds 120

A model that answers each problem with a response that is known beforehand (`taught.py`), one to three programs each.
The evaluation's loop samples it; then 64 clients in another process ask the server for as long, all of one engine's
slots taken either way. In turn, so that noise of the machine falls on both alike. The clients share the machine with
the server, so they do as little as they can: bodies are written before the lap, replies are parsed after it. Every
reply must be the response of its own problem; where a program failed (a busy machine ran it out of time), that is
counted apart. Writes benchmarks/results/serve.md.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import count, product
from pathlib import Path
from typing import Any

import aiohttp
import torch
import uvicorn

from benchmarks.record import markdown_table, write_page
from benchmarks.taught import LEADS, MODEL, MOST_CALLS, PROGRAMS, problem, teach
from tasks.serve.config import ServeConfig
from tasks.serve.conversation import Message
from tasks.serve.request import ServeRequest
from tasks.serve.resident import Resident, open_resident
from tasks.serve.serve import Server, listening_socket
from tasks.serve.server import make_app
from tasks.shared.config import EvaluateConfig, EvaluateStage, GenerationConfig, SandboxConfig, TracesConfig
from tasks.shared.generation.engines import make_generator
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Generator, Sampling
from tasks.shared.learning.checkpoints import load_tokenizer

# fewer slots than clients: one that reads its reply leaves none empty
CLIENTS, SLOTS, RESPONSE_TOKENS = 64, 48, 192
BAR = 0.9
PROBLEMS = [problem(*parts) for parts in product(range(1, MOST_CALLS + 1), PROGRAMS, LEADS)]


@dataclass(frozen=True, slots=True)
class Response:
    """What was said to a prompt."""

    text: str
    prompt_tokens: int
    failed: str = ""  # how the first program ended that did not end well
    before: int = 0  # characters before its output

    def difference(self, known: "Response") -> str:
        """In what it differs from what is known, "" where it does not."""
        if self.text == known.text:
            return ""
        if self.prompt_tokens != known.prompt_tokens:
            return "another prompt"
        if self.failed and self.text[: self.before] == known.text[: self.before]:
            return f"program failed: {self.failed}"
        return "other tokens"


@dataclass(frozen=True, slots=True)
class Lap:
    """What came in so many seconds."""

    tokens: int
    seconds: float
    processor_s: float  # of this process
    client_s: float = 0.0  # of the clients' process
    failed: Counter[str] = field(default_factory=Counter)  # replies under which a program failed

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    @property
    def processor_ms(self) -> float:
        """Processor time of a response, of the process that samples."""
        return 1000 * self.processor_s / (self.tokens / RESPONSE_TOKENS)


def main() -> None:
    """Measure and write the page; or be the clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of all laps of the clients together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients-of", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.clients_of:
        print(json.dumps(asyncio.run(clients(options.clients_of, options.seconds))))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root) / "checkpoint"
        directory.mkdir()
        teach(directory, RESPONSE_TOKENS)
        write(measure(directory, options.seconds, options.rounds), options.seconds)


def stage() -> EvaluateStage:
    """Greedy: what was taught."""
    return EvaluateStage(
        model=MODEL,
        traces=TracesConfig(prompt="bare", max_calls=MOST_CALLS),
        sandbox=SandboxConfig(workers=2),
        generation=GenerationConfig(
            engine="transformers",
            max_sequences=SLOTS,
            max_prompt_tokens=64,
            max_response_tokens=RESPONSE_TOKENS,
        ),
        evaluate=EvaluateConfig(samples_per_problem=1, temperature=0.0),
    )


def measure(checkpoint: Path, seconds: float, rounds: int) -> dict[str, list[Lap]]:
    """Laps of the evaluation's loop and of the server, in turn."""
    config = stage()
    request = ServeRequest(
        name="taught", checkpoint=checkpoint, config=config, serve=ServeConfig(), scratch=checkpoint
    )
    laps: dict[str, list[Lap]] = {"evaluation": [], "server": []}
    with ExitStack() as stack:
        resident = stack.enter_context(open_resident(request))
        generator = make_generator(config.generation, config.model, checkpoint, load_tokenizer(checkpoint))
        listener = stack.enter_context(listening_socket("127.0.0.1", 0))
        server = Server(uvicorn.Config(make_app(resident, request, ""), log_level="warning"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        try:
            evaluated(resident, generator, checkpoint, seconds / rounds / 4)  # both warm up
            for _ in range(rounds):
                lap, known = evaluated(resident, generator, checkpoint, seconds / rounds)
                laps["evaluation"].append(lap)
                laps["server"].append(asked(address, known, seconds / rounds))
        finally:
            server.should_exit = True
            thread.join()
    return laps


def evaluated(
    resident: Resident, generator: Generator, checkpoint: Path, seconds: float
) -> tuple[Lap, dict[str, Response]]:
    """The evaluation's loop with every slot taken for so long; its response to each problem."""
    config, tokenizer = stage(), load_tokenizer(checkpoint)
    policy = RolloutPolicy.of(config.traces, config.sandbox, config.generation, Sampling(temperature=0))
    known: dict[str, Response] = {}
    tokens, started, before = 0, time.monotonic(), time.process_time()
    for batch in count():
        requests = [
            RolloutRequest(f"{batch}-{i % len(PROBLEMS)}", i, prompt_of(resident, i), i)
            for i in range(4 * CLIENTS)
        ]
        for trajectory in rollout(requests, generator, resident.tool, tokenizer, policy):
            tokens += len(trajectory.response_ids)
            if all(call.status == "ok" for call in trajectory.calls):
                asked = PROBLEMS[int(trajectory.problem_id.partition("-")[2])]
                known[asked] = Response(trajectory.text, len(trajectory.prompt_ids))
        if time.monotonic() - started > seconds:
            break
    return Lap(tokens, time.monotonic() - started, time.process_time() - before), known


def prompt_of(resident: Resident, number: int) -> tuple[int, ...]:
    """The prompt of a problem."""
    return resident.prompts.of([Message("user", PROBLEMS[number % len(PROBLEMS)])])


def asked(address: str, known: dict[str, Response], seconds: float) -> Lap:
    """The clients' lap; AssertionError where a reply is not that of its own problem and no program failed under it."""
    command = [sys.executable, "-m", "benchmarks.serve", "--clients-of", address, "--seconds", str(seconds)]
    before = time.process_time()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    processor_s = time.process_time() - before
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["asked"] == len(found["replies"]), "a request was lost"
    differences: Counter[str] = Counter()
    for wanted, told in found["replies"]:
        reply = Response(**told)
        if why := reply.difference(known[wanted]):
            differences[why] += 1
            assert why.startswith("program failed"), f"{why}: {reply} is not {known[wanted]}"
    return Lap(found["tokens"], found["seconds"], processor_s, found["processor_s"], differences)


async def clients(address: str, seconds: float) -> dict[str, object]:
    """Ask with all clients until time is up; then read what came."""
    bodies = [
        json.dumps({"model": "taught", "messages": [{"role": "user", "content": asked}]}).encode()
        for asked in PROBLEMS
    ]
    received: list[tuple[str, bytes]] = []
    asked = 0
    started, before = time.monotonic(), time.process_time()

    async def work(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal asked
        for turn in count(number):
            if time.monotonic() - started > seconds:
                return
            asked += 1
            place = turn % len(PROBLEMS)
            async with session.post(f"{address}/chat/completions", data=bodies[place]) as response:
                response.raise_for_status()
                received.append((PROBLEMS[place], await response.read()))

    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session, number) for number in range(CLIENTS)))
    lap = {"asked": asked, "seconds": time.monotonic() - started, "processor_s": time.process_time() - before}
    replies = [(wanted, json.loads(body)) for wanted, body in received]
    tokens = sum(reply["usage"]["completion_tokens"] for _, reply in replies)
    return lap | {"tokens": tokens, "replies": [(wanted, asdict(read(reply))) for wanted, reply in replies]}


def read(reply: dict[str, Any]) -> Response:
    """What a reply says."""
    message = reply["choices"][0]["message"]
    told = Response(message["content"], reply["usage"]["prompt_tokens"])
    for call in reversed(message["interpreter"]):
        if call["status"] != "ok":
            told = replace(told, failed=call["status"], before=call["start"])
    return told


def write(laps: dict[str, list[Lap]], seconds: float) -> None:
    """benchmarks/results/serve.md."""
    ratios = [one.rate / other.rate for one, other in zip(laps["server"], laps["evaluation"], strict=True)]
    rows = [
        [
            name,
            f"{statistics.median(lap.rate for lap in own):,.0f}",
            f"{sum(lap.tokens for lap in own):,}",
            f"{statistics.median(lap.processor_ms for lap in own):.1f}",
        ]
        for name, own in laps.items()
    ]
    took = statistics.median(1000 * lap.client_s / (lap.tokens / RESPONSE_TOKENS) for lap in laps["server"])
    failed = sum((lap.failed for lap in laps["server"]), Counter())
    told = ", ".join(f"{why} ({count})" for why, count in failed.items()) or "no program failed"
    lines = [
        "",
        *markdown_table(["", "tokens/s", "tokens", "processor time of a response, ms"], rows),
        "",
        f"Server over evaluation, lap by lap: {', '.join(f'{ratio:.2f}' for ratio in ratios)}, median "
        f"{statistics.median(ratios):.2f} (bar {BAR}). The clients took {took:.1f} ms of processor time a reply. Every "
        f"reply was that of its own problem, none was lost; {told}.",
    ]
    about = f"{len(ratios)} laps each, {seconds:g} s of clients in all"
    write_page("serve", "A server under 64 clients", [about], lines)


if __name__ == "__main__":
    main()
