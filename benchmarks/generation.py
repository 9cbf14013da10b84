"""What live code costs in sampling: the interleaved loop against the raw engine, and the ways to deliver feedback.

    OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.generation transformers
    OMP_NUM_THREADS=1 .venv-vllm/bin/python -m benchmarks.generation vllm

The raw engine generates as many tokens for every row, from the same prompts, with the same slots and no stop string.
`taught.py` says what is sampled. Writes benchmarks/results/generation_<engine>.md; about 4 minutes each.
"""

import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack, cast

import torch
from transformers import PreTrainedTokenizerBase

from benchmarks.record import benchmark_options, markdown_table, write_page
from benchmarks.rounds import LAP_HEADER, Clock, Lap, lap_rows, turns
from benchmarks.taught import DIALECT, LEADS, MODEL, MOST_CALLS, problem, teach
from tasks.shared.config import GenerationConfig, SandboxConfig, TracesConfig
from tasks.shared.generation.engines import make_generator
from tasks.shared.generation.interleave import SCHEDULE_STEPS, RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Bounds, Decodes, Generator, Piece, Sampling
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.sandbox import ExecutionResult, Status
from tasks.shared.tools.interpreter import make_interpreter
from tasks.shared.tools.protocol import Tool
from tasks.shared.traces.encoding import encode_prompt

SLOTS, RESPONSE_TOKENS = 128, 280
FEW = 16  # rows at which a step of the tiny model costs little more than one of a single row, as on a GPU
SANDBOX = SandboxConfig(workers=2, memory_mb=512, wall_s=20, preload=("math",))
TRACES = TracesConfig(dialect="retool", prompt="bare", max_calls=MOST_CALLS)
BAR_RAW, BAR_BATCH = 0.85, 1.6


class StandIn:
    """A tool that answers every program at once and runs none: what the loop then costs is its own."""

    def submit(self, code: str, session: str | None = None, limits: object = None) -> Future[ExecutionResult]:
        """What the quick programs print."""
        future: Future[ExecutionResult] = Future()
        future.set_result(ExecutionResult(Status.OK, "7\n", "", "", 0.0, 0.0))
        return future


class BatchSynchronous:
    """An engine whose rows all sample until their block or their end; then all blocks run, and then all continue."""

    def __init__(self, engine: Decodes) -> None:
        self._engine = engine
        self.add, self.num_running = engine.add, 0
        self._stopped: list[Piece] = []  # returned once no row samples
        self._in_code: set[str] = set()
        self._extensions: list[tuple[str, Sequence[int], Bounds]] = []

    def extend(self, request_id: str, ids: Sequence[int], **bounds: Unpack[Bounds]) -> None:
        """Wait for the blocks of the others."""
        self._in_code.remove(request_id)
        self._extensions.append((request_id, ids, bounds))

    def release(self, request_id: str) -> None:
        """Forget a finished request."""
        self._in_code.discard(request_id)
        self._engine.release(request_id)

    def step(self) -> list[Piece]:
        """The pieces that ended their row, and at the end of a round all others."""
        if self._in_code:
            return []
        for request_id, ids, bounds in self._extensions:
            self._engine.extend(request_id, ids, **bounds)
        self._extensions.clear()
        pieces = self._engine.step()
        self._stopped += [piece for piece in pieces if piece.reason == "stop"]
        ended = [piece for piece in pieces if piece.reason != "stop"]
        self.num_running = self._engine.num_running
        if self.num_running:
            return ended
        blocks, self._stopped = self._stopped, []
        self._in_code = {piece.request_id for piece in blocks}
        return ended + blocks


@dataclass(slots=True)
class Bench:
    """One engine with the taught model, an interpreter, and the requests."""

    generator: Generator
    tool: Tool
    tokenizer: PreTrainedTokenizerBase
    policy: RolloutPolicy

    def requests(self, program: str, rows: int) -> list[RolloutRequest]:
        """One to three calls each, and more or less text before them, in turn."""
        texts = [
            problem(1 + row % MOST_CALLS, program, LEADS[row // MOST_CALLS % len(LEADS)])
            for row in range(rows)
        ]
        prompts = {
            text: encode_prompt(self.tokenizer, DIALECT, text, instructed=False) for text in set(texts)
        }
        return [RolloutRequest(str(row), 0, prompts[text], seed=row) for row, text in enumerate(texts)]

    def with_code(
        self, requests: Sequence[RolloutRequest], policy: RolloutPolicy, engine: Decodes
    ) -> tuple[Lap, list[int]]:
        """The interleaved loop; and how many tokens each row sampled."""
        clock = Clock()
        done = list(rollout(requests, engine, self.tool, self.tokenizer, policy))
        counts = {t.problem_id: t.num_sampled for t in done}
        lap = clock.lap(sum(counts.values()))
        calls = sum(len(t.calls) for t in done) / len(done)
        assert abs(calls - (1 + MOST_CALLS) / 2) < 0.1, (
            f"{calls:.2f} calls a row: the model was taught others"
        )
        return lap, [counts[request.problem_id] for request in requests]

    def raw(self, requests: Sequence[RolloutRequest], counts: Sequence[int]) -> Lap:
        """The engine alone, as many tokens for every row."""
        clock, tokens = Clock(), 0
        for request, count in zip(requests, counts, strict=True):
            self.generator.add(
                request.problem_id,
                request.prompt_ids,
                sampling=self.policy.sampling,
                seed=request.seed,
                stop=None,
                max_new_tokens=count,
            )
        while self.generator.num_running:
            for piece in self.generator.step():
                tokens += len(piece.ids)
                self.generator.release(piece.request_id)
        assert tokens > 0.99 * sum(counts), f"rows ended early: {tokens} of {sum(counts)} tokens"
        return clock.lap(tokens)


def against_raw(bench: Bench, rows: int, rounds: int) -> dict[str, list[Lap]]:
    """Quick programs: the interleaved loop, without a sandbox and with one, and the raw engine with as many tokens."""
    laps: dict[str, list[Lap]] = {"raw engine": [], "stand-in for the sandbox": [], "with code": []}
    requests = bench.requests("quick", rows)
    alone = replace(bench, tool=cast(Tool, StandIn()))
    for number in range(-1, rounds):  # one round to warm up
        own, _ = alone.with_code(requests, bench.policy, bench.generator)
        lap, counts = bench.with_code(requests, bench.policy, bench.generator)
        raw = bench.raw(requests, counts)
        if number >= 0:
            for system, found in zip(laps.values(), (raw, own, lap), strict=True):
                system.append(found)
    return laps


def deliveries(bench: Bench, rows: int, rounds: int) -> dict[str, list[Lap]]:
    """Programs of 30 ms: run while other rows sample, answered at once or on the schedule; or all run in between."""
    requests = bench.requests("slow", rows)
    ready, scheduled = (replace(bench.policy, schedule_steps=steps) for steps in (None, SCHEDULE_STEPS))
    systems: dict[str, tuple[RolloutPolicy, Decodes]] = {
        "batch": (ready, BatchSynchronous(bench.generator)),
        "ready": (ready, bench.generator),
        "scheduled": (scheduled, bench.generator),
    }
    laps: dict[str, list[Lap]] = {name: [] for name in systems}
    for number, name in turns(tuple(systems), rounds, warm_up=1):
        lap, _ = bench.with_code(requests, *systems[name])
        laps[name] += [lap] if number >= 0 else []
    return laps


def measure(engine: str, rounds: int) -> list[str]:
    """The tables of one engine, as lines of the page."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, make_interpreter(SANDBOX) as interpreter:
        directory = Path(name)
        teach(directory, RESPONSE_TOKENS)
        config = GenerationConfig.model_validate(
            {
                "engine": engine,
                "max_sequences": SLOTS,
                "max_prompt_tokens": 64,
                "max_response_tokens": RESPONSE_TOKENS,
                "gpu_memory_utilization": 0.1,
            }
        )
        tokenizer = load_tokenizer(directory)
        generator = make_generator(config, MODEL, directory, tokenizer)
        policy = RolloutPolicy.of(TRACES, SANDBOX, config, Sampling(temperature=0))  # what was taught
        bench = Bench(generator, interpreter, tokenizer, policy)
        lines = []
        for measured, base, rows, title in (
            (against_raw, "raw engine", SLOTS, f"against the raw engine (bar {BAR_RAW})"),
            (against_raw, "raw engine", 3 * SLOTS, f"against the raw engine (bar {BAR_RAW})"),
            (
                deliveries,
                "batch",
                FEW,
                f"programs of 30 ms, against batch-synchronous delivery (bar {BAR_BATCH})",
            ),
            (deliveries, "batch", SLOTS, "whose steps cost a CPU as much as their rows: the same"),
        ):
            laps = measured(bench, rows, rounds)
            lines += ["", *markdown_table((f"{rows} rows, {title}", *LAP_HEADER), lap_rows(laps, base))]
        return lines


def main() -> None:
    """Measure one engine and write."""
    parser = benchmark_options(__doc__, rounds=7)
    parser.add_argument("engine", choices=("transformers", "vllm"))
    options = parser.parse_args()
    tables = measure(options.engine, options.rounds)
    lines = [
        f"`python -m benchmarks.generation {options.engine}`: the tiny world's model, one thread, float32, one to "
        f"three calls a row, {RESPONSE_TOKENS} tokens a response, {SLOTS} slots, {SANDBOX.workers} workers of the "
        "interpreter on the same cores; CPU time is that of the engine's process.",
        *tables,
    ]
    title = f"Sampling with live code: {options.engine}"
    write_page(f"generation_{options.engine}", title, [f"{options.rounds} rounds"], lines, options.dry)


if __name__ == "__main__":
    main()
