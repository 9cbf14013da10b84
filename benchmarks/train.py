"""Tokens per second of the SFT step against a bare PyTorch loop on the same packed rows.

    OMP_NUM_THREADS=1 python -m benchmarks.train --rounds 15

Every round runs each system once on the same step, so that noise of the machine falls on all alike; figures are
medians over rounds. The bare loop is the limit: rows packed beforehand, the same attention, a forward pass through the
whole model, cross-entropy, backward, fused AdamW; no clipping, no loss read back. Writes benchmarks/results/train.json
and train.md; about 2 minutes.
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tasks.sft.training import train_step
from tasks.shared.config import OptimizerConfig, TinyModel
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.logprobs import use_packed_attention
from tasks.shared.learning.packed_attention import packed_row
from tasks.shared.learning.packing import PackedBatch, TrainSequence, pack

RESULTS = Path(__file__).parent / "results"
BAR = 0.9
ROW_TOKENS = 2048
Figures = dict[str, dict[str, float]]


def make_model() -> PreTrainedModel:
    """The tiny world's model, randomly initialised; always the same."""
    shape = TinyModel()
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            intermediate_size=shape.intermediate_size,
            max_position_embeddings=shape.max_positions,
            tie_word_embeddings=True,
        )
    )


def make_step(seed: int) -> list[TrainSequence]:
    """32 sequences of 100 to 300 tokens; the second half of each is trained."""
    rng = np.random.default_rng(seed)
    vocabulary = TinyModel().vocabulary
    return [
        TrainSequence(rng.integers(0, vocabulary, n), np.arange(n) >= n // 2)
        for n in rng.integers(100, 301, 32)
    ]


class BareLoop:
    """Plain PyTorch on rows that are packed already; `attention` "packed" as ours, or "sdpa" with a block mask."""

    def __init__(self, attention: str) -> None:
        self.model = make_model()
        self.attention = attention
        if attention == "packed":
            use_packed_attention(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def step(self, rows: list[PackedBatch], denominator: int) -> None:
        """Forward, backward, update."""
        for row in rows:
            labels = row.ids.masked_fill(~row.loss_mask, -100)[0, 1:]
            with packed_row(row.lengths):
                logits = self.model(
                    row.ids, position_ids=row.position_ids, use_cache=False, **self._mask(row)
                ).logits
            (cross_entropy(logits[0, :-1], labels, reduction="sum") / denominator).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _mask(self, row: PackedBatch) -> dict[str, object]:
        if self.attention == "packed":
            return {"attention_mask": torch.ones_like(row.ids)}
        same = row.segment_ids[:, None, :, None] == row.segment_ids[:, None, None, :]
        return {"attention_mask": same.tril()}


def engine_step(zero_stage: int) -> Callable[[list[TrainSequence]], object]:
    """The step of stage `sft`, packing included."""
    config = OptimizerConfig.model_validate({"learning_rate": 1e-3, "zero_stage": zero_stage})
    engine = TrainingEngine(make_model(), config, total_steps=10_000)
    return lambda sequences: train_step(engine, sequences, ROW_TOKENS)


def measure(rounds: int) -> Figures:
    """Median seconds of wall and CPU time a step, and tokens per second, by system."""
    bare, masked = BareLoop("packed"), BareLoop("sdpa")
    ours = {"sft step, ZeRO 0": engine_step(0), "sft step, ZeRO 2": engine_step(2)}
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    num_tokens: list[int] = []
    for number in range(-2, rounds):  # two rounds to warm up
        sequences = make_step(number + 2)
        rows = pack(sequences, ROW_TOKENS)
        targets = sum(row.num_loss_tokens for row in rows)
        calls: dict[str, Callable[[], object]] = {
            "bare PyTorch": partial(bare.step, rows, targets),
            "bare PyTorch, block mask": partial(masked.step, rows, targets),
        }
        calls |= {name: partial(step, sequences) for name, step in ours.items()}
        names = list(calls)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started, used = time.perf_counter(), time.process_time()
            calls[name]()
            if number >= 0:
                cpu.setdefault(name, []).append(time.process_time() - used)
                wall.setdefault(name, []).append(time.perf_counter() - started)
        num_tokens += [sum(row.num_tokens for row in rows)] if number >= 0 else []
    return {
        name: {
            "wall_s": statistics.median(wall[name]),
            "cpu_s": statistics.median(cpu[name]),
            "tokens_per_s": statistics.median(n / s for n, s in zip(num_tokens, wall[name], strict=True)),
            "tokens_per_cpu_s": statistics.median(n / s for n, s in zip(num_tokens, cpu[name], strict=True)),
            "ratio_wall": statistics.median(
                b / s for b, s in zip(wall["bare PyTorch"], wall[name], strict=True)
            ),
            "ratio_cpu": statistics.median(
                b / s for b, s in zip(cpu["bare PyTorch"], cpu[name], strict=True)
            ),
        }
        for name in wall
    }


def write(figures: Figures, rounds: int) -> None:
    """benchmarks/results/train.json and train.md, with hardware, commit and date."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    model_names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    about = {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "hardware": f"{len(model_names)} x {model_names[0] if model_names else platform.machine()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": rounds,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "train.json").write_text(json.dumps({**about, "figures": figures}, indent=2) + "\n")
    lines = [
        "# Training step against a bare PyTorch loop",
        "",
        f"{about['date']}, commit {commit}, {about['hardware']}, {about['threads']} thread(s), torch {about['torch']}. "
        f"Tiny model, 32 sequences of 100 to 300 tokens a step in rows of {ROW_TOKENS}; medians of {rounds} "
        "interleaved rounds. `python -m benchmarks.train`.",
        "",
        "| system | tokens/s | tokens/CPU-s | ratio to bare (wall) | ratio (CPU time) |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['tokens_per_s']:,.0f} | {row['tokens_per_cpu_s']:,.0f} | {row['ratio_wall']:.2f} "
        f"| {row['ratio_cpu']:.2f} |"
        for name, row in figures.items()
    ]
    (RESULTS / "train.md").write_text("\n".join(lines) + "\n")


def main() -> int:
    """Measure, write, and fail if the step of the tiny recipe falls below the bar."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    figures = measure(rounds)
    write(figures, rounds)
    print((RESULTS / "train.md").read_text())
    return 0 if figures["sft step, ZeRO 0"]["ratio_cpu"] >= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
