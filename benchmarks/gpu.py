"""SFT and a policy update of a 1.5 B-parameter model on one GPU: tokens per second and model FLOPs utilisation.

    make bench-gpu

SFT on sequences of 4,096 tokens, the policy update on sequences of 16,384, both in bfloat16 through the stages' own
step. On a GPU it writes benchmarks/results/gpu.md and exits with 1 if SFT stays below the bar. Without one the same
code runs at a tiny size in float32: that shows only that it works, and no result is written.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from benchmarks.random_work import make_qwen2, random_experience, random_sequences
from benchmarks.record import benchmark_options, markdown_table, write_page
from benchmarks.rounds import timed
from data.models import ModelShape, find_model
from tasks.rl.config import RlConfig
from tasks.rl.update import PolicyUpdate
from tasks.sft.training import train_step
from tasks.shared.config import OptimizerConfig
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

    shape: ModelShape
    sft_tokens: int  # of a sequence
    update_tokens: int  # of a sequence
    row_tokens: int  # the token budget of one forward pass
    rows: int  # a step


QWEN_1_5B = replace(find_model("Qwen/Qwen2.5-Math-1.5B").shape, positions=32768)
LARGE = Size(QWEN_1_5B, sft_tokens=4096, update_tokens=16384, row_tokens=16384, rows=8)
TINY = Size(
    ModelShape(64, 2, 4, 2, intermediate_size=128, vocabulary=512, tied=True, positions=512),
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


def training_flops(shape: ModelShape, length: int, num_loss_tokens: int) -> float:
    """FLOPs of forward and backward pass over one causal sequence of `length` tokens; recomputation does not count.

    6 (w n + V H m) + 6 L H n^2: two for each multiply-add, three passes of that size. w are the weights of all layers'
    matrices, n the tokens, m of them predicted through the head. Attention has two products over n^2 / 2 pairs.
    """
    weights = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linear_layers.values())
    attention = shape.layers * shape.hidden_size * length**2
    return 6.0 * (weights * length + shape.head_parameters * num_loss_tokens + attention)


def make_engine(size: Size, cuda: bool) -> TrainingEngine:
    """The model under the stages' engine: bfloat16 with ZeRO 1 on a GPU, else float32."""
    torch.manual_seed(0)
    model = make_qwen2(size.shape)
    if not cuda:
        return TrainingEngine(model, OptimizerConfig(zero_stage=0), total_steps=1000)
    return TrainingEngine(model.to("cuda", torch.bfloat16), OptimizerConfig(zero_stage=1), total_steps=1000)


def measure_sft(engine: TrainingEngine, size: Size, steps: int) -> Figures:
    """The step of stage `sft`."""
    count = size.rows * size.row_tokens // size.sft_tokens
    sequences = random_sequences(count, size.sft_tokens, size.shape.vocabulary)
    flops = count * training_flops(size.shape, size.sft_tokens, int(sequences[0].loss_mask.sum()))
    seconds, peak_gib = _measure(lambda: train_step(engine, sequences, size.row_tokens), steps)
    return Figures(f"SFT, {size.sft_tokens:,} tokens", count * size.sft_tokens, flops, seconds, peak_gib)


def measure_update(engine: TrainingEngine, size: Size, steps: int) -> Figures:
    """The policy update of stage `rl`, one mini-batch."""
    count, length = size.rows * size.row_tokens // size.update_tokens, size.update_tokens
    update = PolicyUpdate(engine, RlConfig(tokens_per_micro_batch=size.row_tokens), None, length)
    experience = random_experience(count, length, size.shape.vocabulary)
    flops = count * training_flops(size.shape, length, experience.graded[0].trajectory.num_sampled)
    seconds, peak_gib = _measure(lambda: update.update(experience, seed=0), steps)
    return Figures(f"policy update, {length:,} tokens", count * length, flops, seconds, peak_gib)


def _measure(step: Callable[[], object], steps: int) -> tuple[float, float]:
    """Median seconds of a step after one to warm up, and peak device memory in GiB."""
    cuda = torch.cuda.is_available()

    def whole_step() -> None:
        step()
        if cuda:
            torch.cuda.synchronize()

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = [timed(whole_step)[0] for _ in range(steps + 1)]
    return statistics.median(seconds[1:]), torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def peak_tflops(device: str, given: float | None) -> float:
    """The device's peak. ValueError if it is unknown and not given."""
    known = [peak for name, peak in PEAK_TFLOPS.items() if name in device]
    if given is None and not known:
        raise ValueError(f"{device}: its bfloat16 peak is unknown; give it with --peak-tflops")
    return given if given is not None else known[0]


def write(phases: list[Figures], peak: float, rounds: int, dry: bool) -> None:
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
        f"`make bench-gpu`. Qwen2.5-1.5B's shape, random weights, bfloat16, ZeRO 1, no gradient checkpointing; peak "
        f"taken as {peak:g} TFLOP/s (bar of SFT: {BAR:.0%}). Recomputation does not count.",
        "",
        *markdown_table(header, rows),
    ]
    about = (f"torch {torch.__version__}", f"medians of {rounds} steps")
    write_page("gpu", "Training a 1.5 B-parameter model on one GPU", about, lines, dry)


def main() -> int:
    """Measure; on a GPU write, and fail below the bar."""
    parser = benchmark_options(__doc__, rounds=5)
    parser.add_argument(
        "--peak-tflops", type=float, help="dense bfloat16, for a GPU without an entry in PEAK_TFLOPS"
    )
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    peak = peak_tflops(torch.cuda.get_device_name(), options.peak_tflops) if cuda else 0.0
    size = LARGE if cuda else TINY
    engine = make_engine(size, cuda)
    phases = [measure(engine, size, options.rounds) for measure in (measure_sft, measure_update)]
    if cuda:
        write(phases, peak, options.rounds, options.dry)
        return 0 if phases[0].utilisation(peak) >= BAR else 1
    print(NO_GPU)
    for phase in phases:
        print(f"{phase.name}: {phase.tokens} tokens, {phase.flops:.3g} FLOPs, {phase.seconds:.3f} s a step")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
