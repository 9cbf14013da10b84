"""What live code costs in sampling: the interleaved loop against the raw engine, and the ways to deliver feedback.

    OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.generation transformers
    OMP_NUM_THREADS=1 .venv-vllm/bin/python -m benchmarks.generation vllm

The raw engine generates as many tokens for every row, from the same prompts, with the same slots and no stop string.
A round runs every system once, so that noise of the machine falls on all alike; a ratio is taken within its round.
`taught.py` says what is sampled. Writes benchmarks/results/generation.json and generation.md; about 4 minutes each.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from benchmarks.record import RESULTS, environment_versions, headline, markdown_table, write_page
from benchmarks.taught import DIALECT, LEADS, MODEL, MOST_CALLS, problem, teach
from tasks.shared.config import GenerationConfig, SandboxConfig, TracesConfig
from tasks.shared.generation.engines import make_generator
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Generator, Sampling
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.sandbox import Interpreter
from tasks.shared.tools.interpreter import make_interpreter
from tasks.shared.traces.encoding import encode_prompt

SLOTS, RESPONSE_TOKENS = 128, 280
FEW = 16  # rows at which a step of the tiny model costs little more than one of a single row, as on a GPU
SANDBOX = SandboxConfig(workers=2, memory_mb=512, wall_s=20, preload=("math",))
TRACES = TracesConfig(dialect="retool", prompt="bare", max_calls=MOST_CALLS)
BAR_RAW, BAR_BATCH = 0.85, 1.6


@dataclass(frozen=True, slots=True)
class Lap:
    """One run of one system."""

    tokens: int  # sampled by the policy
    seconds: float
    cpu_s: float  # of this process, its threads included

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


@dataclass(slots=True)
class Bench:
    """One engine with the taught model, an interpreter, and the requests."""

    generator: Generator
    interpreter: Interpreter
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

    def with_code(self, requests: Sequence[RolloutRequest], policy: RolloutPolicy) -> tuple[Lap, list[int]]:
        """The interleaved loop; and how many tokens each row sampled."""
        clock = Clock()
        done = list(rollout(requests, self.generator, self.interpreter, self.tokenizer, policy))
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


class Clock:
    """Wall and processor time from its making on."""

    def __init__(self) -> None:
        self._started, self._used = time.perf_counter(), time.process_time()

    def lap(self, tokens: int) -> Lap:
        """The time until now."""
        return Lap(tokens, time.perf_counter() - self._started, time.process_time() - self._used)


def against_raw(bench: Bench, rows: int, rounds: int) -> dict[str, list[Lap]]:
    """Quick programs: the interleaved loop and the raw engine, in turn."""
    laps: dict[str, list[Lap]] = {"raw engine": [], "with code": []}
    requests = bench.requests("quick", rows)
    for number in range(-1, rounds):  # one round to warm up
        lap, counts = bench.with_code(requests, bench.policy)
        raw = bench.raw(requests, counts)
        if number >= 0:
            laps["with code"].append(lap)
            laps["raw engine"].append(raw)
    return laps


def deliveries(bench: Bench, rows: int, rounds: int) -> dict[str, list[Lap]]:
    """Programs of 30 ms: run while other rows sample, answered at once or on the schedule; or all run in between."""
    requests = bench.requests("slow", rows)
    systems: dict[str, Callable[[], tuple[Lap, list[int]]]] = {
        name: partial(bench.with_code, requests, replace(bench.policy, delivery=name))  # type: ignore[arg-type]
        for name in ("batch", "ready", "scheduled")
    }
    laps: dict[str, list[Lap]] = {name: [] for name in systems}
    for number in range(-1, rounds):
        for name, run in systems.items():
            lap, _ = run()
            if number >= 0:
                laps[name].append(lap)
    return laps


def figures(laps: dict[str, list[Lap]], base: str) -> dict[str, dict[str, float]]:
    """Medians, and the ratio to `base` within each round: median, lower and upper quartile."""
    table = {}
    for name, own in laps.items():
        ratios = [lap.rate / other.rate for lap, other in zip(own, laps[base], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        cpu = [
            (lap.tokens / lap.cpu_s) / (b.tokens / b.cpu_s) for lap, b in zip(own, laps[base], strict=True)
        ]
        table[name] = {
            "tokens_per_s": statistics.median(lap.rate for lap in own),
            "ratio": middle,
            "ratio_low": low,
            "ratio_high": high,
            "ratio_cpu": statistics.median(cpu),
        }
    return table


def measure(engine: str, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Every table of one engine."""
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
        return {
            "raw": figures(against_raw(bench, SLOTS, rounds), "raw engine"),
            "raw_refilled": figures(against_raw(bench, 3 * SLOTS, rounds), "raw engine"),
            "delivery": figures(deliveries(bench, FEW, rounds), "batch"),
            "delivery_full": figures(deliveries(bench, SLOTS, rounds), "batch"),
        }


TITLES = {
    "raw": f"{SLOTS} rows in {SLOTS} slots, against the raw engine (bar {BAR_RAW})",
    "raw_refilled": f"{3 * SLOTS} rows in {SLOTS} slots, against the raw engine (bar {BAR_RAW})",
    "delivery": f"{FEW} rows, programs of 30 ms, against batch-synchronous delivery (bar {BAR_BATCH})",
    "delivery_full": f"{SLOTS} rows, whose steps cost a CPU as much as their rows: the same",
}


def write(engine: str, tables: dict[str, dict[str, dict[str, float]]], rounds: int) -> None:
    """Put this engine's tables into generation.json, and what that holds now into generation.md."""
    path = RESULTS / "generation.json"
    record = json.loads(path.read_text()) if path.is_file() else {}
    record[engine] = {"about": environment_versions() | {"rounds": rounds}, "tables": tables}
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    lines = ["# Sampling with live code", ""]
    lines += [
        "`python -m benchmarks.generation`: the tiny world's model, one thread, float32, one to three calls a row, "
        f"{RESPONSE_TOKENS} tokens a response, {SANDBOX.workers} workers of the interpreter on the same cores.",
        "",
    ]
    for name, part in sorted(record.items()):
        about = part["about"]
        lines += [f"## {name}", "", headline(about, f"{about['rounds']} rounds"), ""]
        for table, rows in part["tables"].items():
            header = [
                TITLES[table],
                "tokens/s",
                "ratio (quartiles)",
                "ratio by CPU time of the engine's process",
            ]
            lines += [*markdown_table(header, [_row(system, row) for system, row in rows.items()]), ""]
    write_page("generation", lines[:-1])


def _row(system: str, row: dict[str, float]) -> list[str]:
    spread = f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
    return [system, f"{row['tokens_per_s']:,.0f}", spread, f"{row['ratio_cpu']:.2f}"]


def main() -> None:
    """Measure one engine and write."""
    parser = argparse.ArgumentParser(description="Sampling with live code against the raw engine")
    parser.add_argument("engine", choices=("transformers", "vllm"))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    write(arguments.engine, measure(arguments.engine, arguments.rounds), arguments.rounds)


if __name__ == "__main__":
    main()
