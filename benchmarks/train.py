"""Tokens per second of the SFT step against a bare PyTorch loop on the same packed rows.

    OMP_NUM_THREADS=1 python -m benchmarks.train

Each system takes the same step once a round. The bare loop is the limit: rows packed beforehand, the same attention, a
forward pass through the whole model, cross-entropy, backward, fused AdamW; no clipping, no loss read back. Writes
benchmarks/results/train.md; about 2 minutes. Exit code 1 if the step of the tiny recipe stays below the bar.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from benchmarks.random_work import make_qwen2
from benchmarks.record import benchmark_options, markdown_table, write_page
from benchmarks.rounds import LAP_HEADER, Clock, Lap, cpu_ratio, lap_rows, turns
from data.models import ModelShape
from tasks.sft.training import train_step
from tasks.shared.config import OptimizerConfig, TinyModel
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.logprobs import use_packed_attention
from tasks.shared.learning.packed_attention import packed_row
from tasks.shared.learning.packing import PackedBatch, TrainSequence, pack

BAR = 0.9  # of the bare loop's steps per second of CPU time
ROW_TOKENS = 2048
TINY = TinyModel()
BARE, MASKED, OURS = "bare PyTorch", "bare PyTorch, block mask", "sft step, ZeRO 0"
WARM_UP = 2  # rounds


def make_model() -> PreTrainedModel:
    """The tiny world's model, randomly initialised; always the same."""
    torch.manual_seed(0)
    width, heads = (TINY.hidden_size, TINY.layers), (TINY.heads, TINY.key_value_heads)
    return make_qwen2(
        ModelShape(*width, *heads, TINY.intermediate_size, TINY.vocabulary, True, TINY.max_positions)
    )


def make_step(seed: int) -> list[TrainSequence]:
    """32 sequences of 100 to 300 tokens; the second half of each is trained."""
    rng = np.random.default_rng(seed)
    return [
        TrainSequence(rng.integers(0, TINY.vocabulary, n), np.arange(n) >= n // 2)
        for n in rng.integers(100, 301, 32)
    ]


class BareLoop:
    """Plain PyTorch on packed rows: with the engine's attention, or `masked`: PyTorch's own and a block mask."""

    def __init__(self, masked: bool = False) -> None:
        self.model = make_model()
        self.masked = masked
        if not masked:
            use_packed_attention(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def step(self, rows: list[PackedBatch]) -> None:
        """Forward, backward, update."""
        num_loss_tokens = sum(row.num_loss_tokens for row in rows)
        for row in rows:
            labels = row.ids.masked_fill(~row.loss_mask, -100)[0, 1:]
            mask = torch.ones_like(row.ids)
            if self.masked:
                mask = (row.segment_ids[:, None, :, None] == row.segment_ids[:, None, None, :]).tril()
            with packed_row(row.lengths):
                logits = self.model(
                    row.ids, position_ids=row.position_ids, use_cache=False, attention_mask=mask
                ).logits
            (cross_entropy(logits[0, :-1], labels, reduction="sum") / num_loss_tokens).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def engine_step(zero_stage: int) -> Callable[[list[TrainSequence]], object]:
    """The step of stage `sft`, packing included."""
    config = OptimizerConfig(learning_rate=1e-3, zero_stage=zero_stage)
    engine = TrainingEngine(make_model(), config, total_steps=10_000)
    return lambda sequences: train_step(engine, sequences, ROW_TOKENS)


def measure(rounds: int) -> dict[str, list[Lap]]:
    """Laps of every system."""
    bare: dict[str, Callable[[list[PackedBatch]], object]] = {
        BARE: BareLoop().step,
        MASKED: BareLoop(masked=True).step,
    }
    ours = {OURS: engine_step(0), "sft step, ZeRO 2": engine_step(2)}
    laps: dict[str, list[Lap]] = {name: [] for name in (*bare, *ours)}
    for number, name in turns(list(laps), rounds, WARM_UP):
        sequences = make_step(number + WARM_UP)
        rows = pack(sequences, ROW_TOKENS)
        clock = Clock()
        if name in bare:
            bare[name](rows)
        else:
            ours[name](sequences)
        lap = clock.lap(sum(row.num_tokens for row in rows))
        laps[name] += [lap] if number >= 0 else []
    return laps


def main() -> int:
    """Measure, write, and fail if the step of the tiny recipe falls below the bar."""
    options = benchmark_options(__doc__, rounds=15).parse_args()
    laps = measure(options.rounds)
    about = (f"{torch.get_num_threads()} threads", f"torch {torch.__version__}", f"{options.rounds} rounds")
    lines = [
        f"`python -m benchmarks.train`. Tiny model, 32 sequences of 100 to 300 tokens a step in rows of {ROW_TOKENS}; "
        f"bar of `{OURS}`: {BAR} by CPU time.",
        "",
        *markdown_table(("system", *LAP_HEADER), lap_rows(laps, BARE)),
    ]
    write_page("train", "Training step against a bare PyTorch loop", about, lines, options.dry)
    return 0 if cpu_ratio(laps[OURS], laps[BARE]) >= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
