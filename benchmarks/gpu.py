"""SFT and a policy update of a 1.5 B-parameter model on one GPU: tokens per second and model FLOPs utilisation.

    make bench-gpu

SFT on sequences of 4,096 tokens, the policy update on sequences of 16,384, both in bfloat16 through the stages' own
step. Without a CUDA device the same code runs at a tiny size in float32: that shows that it works, nothing more, and
no result is written. On a GPU it writes benchmarks/results/gpu.md; exit code 1 if SFT stays below the bar.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.random_work import make_qwen2, random_experience, random_sequences
from benchmarks.record import environment_versions, headline, markdown_table, write_page
from tasks.rl.update import PolicyUpdate
from tasks.sft.training import train_step
from tasks.shared.config import OptimizerConfig, RlConfig
from tasks.shared.learning.engine import TrainingEngine

BAR = 0.45  # model FLOPs utilisation of SFT
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}  # dense bfloat16, by the makers' data sheets
NO_GPU = """\
****************************************************************
*** NO GPU SEEN. Tiny sizes on the CPU: these figures say    ***
*** nothing about a GPU, and nothing is written.             ***
****************************************************************"""


@dataclass(frozen=True, slots=True)
class Size:
    """A model and the work of one step."""

    shape: dict[str, int]  # of `make_qwen2`
    sft_tokens: int  # of a sequence
    update_tokens: int
    row_tokens: int  # the token budget of one forward pass
    rows: int  # a step


# Qwen2.5-1.5B's shape
LARGE = Size(
    shape={
        "hidden": 1536,
        "layers": 28,
        "heads": 12,
        "key_value_heads": 2,
        "intermediate": 8960,
        "vocabulary": 151936,
        "positions": 32768,
    },
    sft_tokens=4096,
    update_tokens=16384,
    row_tokens=16384,
    rows=8,
)
TINY = Size(
    shape={
        "hidden": 64,
        "layers": 2,
        "heads": 4,
        "key_value_heads": 2,
        "intermediate": 128,
        "vocabulary": 512,
        "positions": 512,
    },
    sft_tokens=64,
    update_tokens=256,
    row_tokens=256,
    rows=2,
)


@dataclass(frozen=True, slots=True)
class Figures:
    """One phase, per step."""

    name: str
    tokens: int
    flops: float
    seconds: float  # median
    peak_gib: float  # of device memory; 0 on the CPU

    def utilisation(self, peak_tflops: float) -> float:
        """Model FLOPs per second over what the device could do."""
        return self.flops / self.seconds / (peak_tflops * 1e12)


def training_flops(shape: dict[str, int], length: int, num_loss_tokens: int) -> float:
    """FLOPs of forward and backward pass over one causal sequence of `length` tokens; nothing computed again counts.

    6 (w n + V H m) + 6 L H n^2: two for each multiply-add, three passes of that size; w the weights of all layers'
    matrices, n tokens, m of them predicted through the head, and for attention two products over n^2 / 2 pairs.
    """
    hidden, layers = shape["hidden"], shape["layers"]
    key_value = hidden // shape["heads"] * shape["key_value_heads"]
    weights = layers * hidden * (2 * hidden + 2 * key_value + 3 * shape["intermediate"])
    head = shape["vocabulary"] * hidden
    return 6.0 * (weights * length + head * num_loss_tokens) + 6.0 * layers * hidden * length**2


def make_engine(size: Size, cuda: bool) -> TrainingEngine:
    """The model under the stages' engine: bfloat16 with ZeRO 1 on a GPU, else float32."""
    torch.manual_seed(0)
    model = make_qwen2(**size.shape)
    if not cuda:
        return TrainingEngine(model, OptimizerConfig(zero_stage=0), total_steps=1000)
    return TrainingEngine(model.to("cuda", torch.bfloat16), OptimizerConfig(zero_stage=1), total_steps=1000)


def measure_sft(engine: TrainingEngine, size: Size, steps: int) -> Figures:
    """The step of stage `sft`."""
    count = size.rows * size.row_tokens // size.sft_tokens
    sequences = random_sequences(count, size.sft_tokens, size.shape["vocabulary"])
    num_loss_tokens = int(sequences[0].loss_mask.sum())
    seconds, peak = _timed(lambda: train_step(engine, sequences, size.row_tokens), steps)
    flops = count * training_flops(size.shape, size.sft_tokens, num_loss_tokens)
    return Figures(f"SFT, {size.sft_tokens:,} tokens", count * size.sft_tokens, flops, seconds, peak)


def measure_update(engine: TrainingEngine, size: Size, steps: int) -> Figures:
    """The policy update of stage `rl`, one mini-batch."""
    count = size.rows * size.row_tokens // size.update_tokens
    config = RlConfig(tokens_per_micro_batch=size.row_tokens)
    update = PolicyUpdate(engine, config, None, size.update_tokens)
    experience = random_experience(count, size.update_tokens, size.shape["vocabulary"])
    num_loss_tokens = experience.graded[0].trajectory.num_sampled
    seconds, peak = _timed(lambda: update.update(experience, seed=0), steps)
    flops = count * training_flops(size.shape, size.update_tokens, num_loss_tokens)
    return Figures(
        f"policy update, {size.update_tokens:,} tokens", count * size.update_tokens, flops, seconds, peak
    )


def _timed(step: Callable[[], object], steps: int) -> tuple[float, float]:
    """Median seconds of a step after one to warm up, and peak device memory in GiB."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    taken = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:]), torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def peak_tflops(device: str, given: float | None) -> float:
    """What the device could do. ValueError for one that is not known here."""
    known = [peak for name, peak in PEAK_TFLOPS.items() if name in device]
    if given is None and not known:
        raise ValueError(f"{device}: its bfloat16 peak is not known here; give it with --peak-tflops")
    return given if given is not None else known[0]


def write(phases: list[Figures], peak: float, steps: int) -> None:
    """benchmarks/results/gpu.md."""
    rows = [
        [
            phase.name,
            f"{phase.tokens:,}",
            f"{phase.seconds:.3f}",
            f"{phase.tokens / phase.seconds:,.0f}",
            f"{phase.utilisation(peak):.1%}",
            f"{phase.peak_gib:.1f}",
        ]
        for phase in phases
    ]
    header = ["phase", "tokens a step", "s a step", "tokens/s", "model FLOPs utilisation", "peak GiB"]
    lines = [
        "# Training a 1.5 B-parameter model on one GPU",
        "",
        headline(environment_versions(), f"torch {torch.__version__}", f"medians of {steps} steps"),
        f"`make bench-gpu`. Qwen2.5-1.5B's shape, random weights, bfloat16, ZeRO 1, no gradient checkpointing; peak "
        f"taken as {peak:g} TFLOP/s (bar of SFT: {BAR:.0%}). What is computed again does not count.",
        "",
        *markdown_table(header, rows),
    ]
    write_page("gpu", lines)


def main() -> int:
    """Measure; on a GPU write, and fail below the bar."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16, for a GPU that is not known here")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    peak = peak_tflops(torch.cuda.get_device_name(), arguments.peak_tflops) if cuda else 0.0
    size = LARGE if cuda else TINY
    engine = make_engine(size, cuda)
    phases = [measure(engine, size, arguments.steps) for measure in (measure_sft, measure_update)]
    if cuda:
        write(phases, peak, arguments.steps)
        return 0 if phases[0].utilisation(peak) >= BAR else 1
    print(NO_GPU)
    for phase in phases:
        print(f"{phase.name}: {phase.tokens} tokens, {phase.flops:.3g} FLOPs, {phase.seconds:.3f} s a step")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
