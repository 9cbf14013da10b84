"""Peak memory of the phases of a step: it grows with the token budget, not with the number of samples.

    make bench-memory

Each size is measured in a process of its own: the peak of resident memory during the step, less what was resident
before it (model, gradients and optimizer after a first small step). Writes benchmarks/results/memory.md; about 4
minutes. Exit code 1 if 16 times the samples take more than 1.15 times the memory.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.record import markdown_table, write_page
from data.models import ModelShape

MOST_GROWTH = 1.15  # from 1x to 16x the samples
LENGTH = 128  # tokens of a sequence
SHAPE = ModelShape(256, 4, 4, 2, intermediate_size=1024, vocabulary=4096, tied=True, positions=2 * LENGTH)
BUDGET, SAMPLES = 2048, 32  # 1x: two rows, one each mini-batch
PHASES = {
    "sft": "SFT step, rows of the budget",
    "policy": "policy update, rows of the budget",
    "sampling": "sampling, slots of the budget / 128",
}


def sft_step(budget: int) -> Callable[[int], object]:
    """The step of stage `sft`."""
    from benchmarks.random_work import make_qwen2, random_sequences
    from tasks.sft.training import train_step
    from tasks.shared.config import OptimizerConfig
    from tasks.shared.learning.engine import TrainingEngine

    engine = TrainingEngine(make_qwen2(SHAPE), OptimizerConfig(zero_stage=0), total_steps=2)
    return lambda count: train_step(engine, random_sequences(count, LENGTH, SHAPE.vocabulary), budget)


def policy_step(budget: int) -> Callable[[int], object]:
    """The policy update of stage `rl`, in two mini-batches, so that old log-probs are kept."""
    from benchmarks.random_work import make_qwen2, random_experience
    from tasks.rl.config import RlConfig
    from tasks.rl.update import PolicyUpdate
    from tasks.shared.config import OptimizerConfig
    from tasks.shared.learning.engine import TrainingEngine

    config = RlConfig(tokens_per_micro_batch=budget, mini_batches=2, optimizer=OptimizerConfig(zero_stage=0))
    engine = TrainingEngine(make_qwen2(SHAPE), config.optimizer, total_steps=4)
    update = PolicyUpdate(engine, config, None, LENGTH)
    return lambda count: update.update(random_experience(count, LENGTH, SHAPE.vocabulary), seed=0)


def sampling_step(budget: int) -> Callable[[int], object]:
    """The Transformers engine: as many slots as the budget holds sequences; further requests wait."""
    from benchmarks.random_work import make_qwen2, random_sequences
    from tasks.prepare.tiny_tokenizer import train_tokenizer
    from tasks.shared.generation.protocol import Sampling
    from tasks.shared.generation.transformers_engine import TransformersGenerator

    tokenizer = train_tokenizer(SHAPE.vocabulary, 0, SHAPE.positions)
    engine = TransformersGenerator(make_qwen2(SHAPE), tokenizer, budget // LENGTH)
    half = LENGTH // 2

    def sample(count: int) -> None:
        for index, sequence in enumerate(random_sequences(count, half, SHAPE.vocabulary)):
            ids = sequence.ids.tolist()
            engine.add(str(index), ids, sampling=Sampling(), seed=index, stop=None, max_new_tokens=half)
        while engine.num_running:
            for piece in engine.step():
                engine.release(piece.request_id)

    return sample


def measure(phase: str, budget: int, samples: int) -> float:
    """MiB that a step of `samples` samples takes at its peak, beyond what stays resident between steps."""
    import torch

    torch.set_num_threads(1)
    step = {"sft": sft_step, "policy": policy_step, "sampling": sampling_step}[phase](budget)
    step(2)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _status_mib("VmRSS")
    step(samples)
    return _status_mib("VmHWM") - before


def _status_mib(name: str) -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def measure_apart(phase: str, budget: int, samples: int) -> float:
    """`measure` in a process of its own, whose allocator gives freed memory back: holes in a heap are not live."""
    command = [sys.executable, "-m", "benchmarks.memory", "--measure", phase, str(budget), str(samples)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return float(result.stdout.splitlines()[-1])


def main() -> int:
    """Measure every size, write, and fail where memory grows with the samples."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--measure", nargs=3, metavar=("PHASE", "BUDGET", "SAMPLES"), help="one size, in this process"
    )
    chosen = parser.parse_args().measure
    if chosen:
        print(measure(chosen[0], int(chosen[1]), int(chosen[2])))
        return 0
    by_samples = {
        phase: [measure_apart(phase, BUDGET, SAMPLES * times) for times in (1, 4, 16)] for phase in PHASES
    }
    by_budget = {
        phase: [measure_apart(phase, BUDGET * times, SAMPLES * 4) for times in (1, 2, 4)] for phase in PHASES
    }
    write(by_samples, by_budget)
    return 0 if all(sizes[-1] <= MOST_GROWTH * sizes[0] for sizes in by_samples.values()) else 1


def write(by_samples: dict[str, list[float]], by_budget: dict[str, list[float]]) -> None:
    """benchmarks/results/memory.md."""

    def rows(figures: dict[str, list[float]]) -> list[list[str]]:
        return [
            [PHASES[phase], *(f"{size:,.0f}" for size in sizes), f"{sizes[-1] / sizes[0]:.2f}"]
            for phase, sizes in figures.items()
        ]

    budgets, samples = [BUDGET * n for n in (1, 2, 4)], [SAMPLES * n for n in (1, 4, 16)]
    lines = [
        "`make bench-memory`. MiB at the peak, beyond what stays resident between steps. A Qwen2-shaped model of "
        f"{SHAPE.layers} layers, {SHAPE.hidden_size} wide, float32; sequences of {LENGTH} tokens. The allocator gives "
        "freed memory back at once (`MALLOC_MMAP_THRESHOLD_=65536`): by default glibc keeps holes in its heap on top.",
        "",
        f"At one budget of {BUDGET:,} tokens:",
        "",
        *markdown_table(["phase", *(f"{n} samples" for n in samples), "16x / 1x"], rows(by_samples)),
        "",
        f"At {SAMPLES * 4} samples:",
        "",
        *markdown_table(["phase", *(f"budget {n:,}" for n in budgets), "4x / 1x"], rows(by_budget)),
    ]
    write_page("memory", "Peak memory of a step", ["each size in a process of its own"], lines)


if __name__ == "__main__":
    raise SystemExit(main())
