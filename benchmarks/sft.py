"""SFT against TRL's SFTTrainer with packing: tokens per second, and whether the loss falls alike.

    make bench-sft

The same model, traces, tokens in the loss, tokens a step, optimizer and schedule, one thread, step by step in turn. TRL
runs twice: with its own packing, for the speed, and on this project's very steps at their rates, for the loss. A second
run of this project, in another order of the data, says how much two equal runs differ. Writes
benchmarks/results/sft.md; about 8 minutes. Exit code 1 below the bar, or if the loss curves lie apart.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.record import benchmark_options, markdown_table, write_page
from benchmarks.trl import settings
from benchmarks.trl.laps import TRL_PYTHON, Racer, median, race, start_racer, trl_version
from benchmarks.trl.world import NUM_TRACES, make_sequences, write_rows, write_sequences
from data.problems import Split, generate
from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.shared.config import TinyModel
from tasks.shared.learning.checkpoints import load_tokenizer

BAR = 1.2
WARM_UP = 2
WINDOW = 30  # steps whose mean loss is compared
ALIKE = """\
Alike: the tiny world's model from the same weights, at most 2,048 tokens a step, loss on the assistant's own tokens,
mean over the step's tokens, AdamW with the same rate, schedule, decay and clipping, float32, one thread.

Not alike: tirflow draws a step's traces at random, packs them within the step, and attends sequence by sequence. TRL
attends through a block mask that Transformers makes of the positions, there being no flash-attention on a CPU, and its
step also computes entropy and accuracy. Left to itself, TRL packs the data set by best fit before it starts (`bfd`):
that sorts the traces by length, so a step holds traces of nearly one length, which here means of one kind; and its
warm-up begins at rate 0, a step behind. `TRL, tirflow's steps` is given the same traces at each step, and its rate.
"""


def make_racers(root: Path) -> list[Racer]:
    """Write model and traces; start this project, the same in another order of the data, TRL, and TRL on its steps."""
    checkpoint, sequences, rows = root / "base", root / "train.parquet", root / "rows.parquet"
    make_tiny_checkpoint(TinyModel(), 0, checkpoint)
    traces = make_sequences(load_tokenizer(checkpoint), generate(Split.TRAIN, NUM_TRACES, seed=0))
    write_sequences(traces, sequences)
    write_rows(traces, rows, seed=0)
    return [
        start_racer("tirflow", "sft_ours", checkpoint, sequences, 0),
        start_racer("tirflow, another order", "sft_ours", checkpoint, sequences, 1),
        start_racer("TRL, its packing", "sft_trl", checkpoint, sequences),
        start_racer("TRL, tirflow's steps", "sft_trl", checkpoint, rows),
    ]


def windows(racer: Racer) -> np.ndarray:
    """(W,) mean loss of each WINDOW steps."""
    losses = [lap["loss"] for lap in racer.laps]
    whole = len(losses) // WINDOW * WINDOW
    return np.array(losses[:whole]).reshape(-1, WINDOW).mean(axis=1)


def write(racers: list[Racer], version: str, dry: bool) -> bool:
    """Write benchmarks/results/sft.md; whether speed holds the bar, and TRL's loss is as near as a second own run's."""
    ours, _, theirs, same_steps = racers
    speed = {racer.name: median(racer, "tokens", per="wall_s") for racer in racers}
    speed_up = speed[ours.name] / speed[theirs.name]
    curves = [windows(racer) for racer in racers]
    noise, own_packing, apart = (np.abs(curves[0] - other) for other in curves[1:])
    a_step = max(abs(a["loss"] - b["loss"]) for a, b in zip(ours.laps, same_steps.laps, strict=True))
    shown = range(0, len(curves[0]), max(1, len(curves[0]) // 5))
    rows = [
        [
            racer.name,
            f"{speed[racer.name]:,.0f}",
            f"{median(racer, 'tokens', per='cpu_s'):,.0f}",
            f"{median(racer, 'tokens'):,.0f}",
            *(f"{curve[window]:.3f}" for window in shown),
        ]
        for racer, curve in zip(racers, curves, strict=True)
    ]
    header = ["system", "tokens/s", "tokens/CPU-s", "tokens a step"]
    header += [f"loss, steps {WARM_UP + i * WINDOW + 1} on" for i in shown]
    lines = [
        f"`make bench-sft`. {speed_up:.2f} times the tokens per second of TRL with its packing (bar: {BAR:g}), "
        f"{speed[ours.name] / speed[same_steps.name]:.2f} times those of TRL on the same steps.",
        "",
        f"Mean loss over {WINDOW} steps: on the same steps TRL's differs from tirflow's by {apart.mean():.4f} on "
        f"average, {apart.max():.4f} at most (a single step's by {a_step:.4f} at most); two runs of tirflow in "
        f"different orders of the data by {noise.mean():.4f} and {noise.max():.4f}; TRL with its own packing and "
        f"warm-up from tirflow by {own_packing.mean():.4f} and {own_packing.max():.4f}.",
        "",
        *markdown_table(header, rows),
        "",
        ALIKE.rstrip(),
    ]
    about = (f"TRL {version}", f"medians of {len(ours.laps)} steps of each, taken in turn")
    write_page("sft", "SFT against TRL's SFTTrainer", about, lines, dry)
    return speed_up >= BAR and apart.mean() <= 2 * noise.mean()


def main() -> int:
    """Measure, write, and fail where it falls short."""
    options = benchmark_options(__doc__, rounds=settings.SFT_STEPS - WARM_UP).parse_args()
    version = trl_version(TRL_PYTHON)
    with tempfile.TemporaryDirectory() as root:
        racers = make_racers(Path(root))
        race(racers, options.rounds, WARM_UP)
    return 0 if write(racers, version, options.dry) else 1


if __name__ == "__main__":
    raise SystemExit(main())
