"""SFT against TRL's SFTTrainer with packing: tokens per second, and whether the loss falls alike.

    make bench-sft

The same model, traces, tokens in the loss, tokens a step, optimizer and schedule, one thread, step by step in turn in
one run. TRL runs twice: as it packs by itself, for the speed, and on this project's very steps at their rates, for the
loss. A second run of this project, in another order of the data, says how much two equal runs differ. Writes
benchmarks/results/sft.md; about 8 minutes. Exit code 1 below the bar, or where the loss curves lie apart.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.record import environment_versions, headline, markdown_table, write_page
from benchmarks.trl import settings
from benchmarks.trl.laps import TRL_PYTHON, Racer, median, race, trl_version
from benchmarks.trl.world import NUM_TRACES, make_base, make_sequences, write_rows, write_sequences
from data.problems import Split, generate
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


def make_racers(root: Path, trl_python: Path) -> list[Racer]:
    """Write model and traces; start this project, the same in another order of the data, TRL, and TRL on its steps."""
    checkpoint, sequences, rows = root / "base", root / "train.parquet", root / "rows.parquet"
    checkpoint.mkdir()
    make_base(checkpoint)
    problems = generate(Split.TRAIN, NUM_TRACES, seed=0)
    traces = make_sequences(load_tokenizer(checkpoint), problems)
    write_sequences(traces, sequences)
    write_rows(traces, rows, seed=0)

    def racer(name: str, python: str, module: str, *arguments: str) -> Racer:
        return Racer(name, [python, "-m", f"benchmarks.trl.{module}", str(checkpoint), *arguments])

    return [
        racer("tirflow", sys.executable, "sft_ours", str(sequences), "0"),
        racer("tirflow, another order", sys.executable, "sft_ours", str(sequences), "1"),
        racer("TRL, its packing", str(trl_python), "sft_trl", str(sequences)),
        racer("TRL, tirflow's steps", str(trl_python), "sft_trl", str(rows)),
    ]


def windows(racer: Racer) -> np.ndarray:
    """(W,) mean loss of each WINDOW steps."""
    losses = [lap["loss"] for lap in racer.laps]
    whole = len(losses) // WINDOW * WINDOW
    return np.array(losses[:whole]).reshape(-1, WINDOW).mean(axis=1)


def write(racers: list[Racer], version: str) -> bool:
    """benchmarks/results/sft.md; whether it is as fast as the bar, and TRL's curve as near as a second own one."""
    ours, _, theirs, same_steps = racers
    speed = {racer.name: median(racer, "tokens", per="wall_s") for racer in racers}
    speed_up = speed[ours.name] / speed[theirs.name]
    curves = [windows(racer) for racer in racers]
    noise, own_packing, apart = (np.abs(curves[0] - other) for other in curves[1:])
    a_step = max(abs(a["loss"] - b["loss"]) for a, b in zip(ours.laps, same_steps.laps, strict=True))
    rows = [
        [
            racer.name,
            f"{median(racer, 'tokens', per='wall_s'):,.0f}",
            f"{median(racer, 'tokens', per='cpu_s'):,.0f}",
            f"{median(racer, 'tokens'):,.0f}",
            *(f"{loss:.3f}" for loss in curve[:: max(1, len(curve) // 5)]),
        ]
        for racer, curve in zip(racers, curves, strict=True)
    ]
    shown = range(0, len(curves[0]), max(1, len(curves[0]) // 5))
    header = ["system", "tokens/s", "tokens/CPU-s", "tokens a step"]
    header += [f"loss, steps {WARM_UP + i * WINDOW + 1} on" for i in shown]
    lines = [
        "# SFT against TRL's SFTTrainer",
        "",
        headline(
            environment_versions(),
            f"TRL {version}",
            f"medians of {len(ours.laps)} steps of each, taken in turn",
        ),
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
    write_page("sft", lines)
    return speed_up >= BAR and apart.mean() <= 2 * noise.mean()


def main() -> int:
    """Measure, write, and fail where it falls short."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=settings.SFT_STEPS - WARM_UP)
    parser.add_argument("--trl-python", type=Path, default=TRL_PYTHON)
    arguments = parser.parse_args()
    version = trl_version(arguments.trl_python)
    with tempfile.TemporaryDirectory() as root:
        racers = make_racers(Path(root), arguments.trl_python)
        race(racers, arguments.rounds, WARM_UP)
    return 0 if write(racers, version) else 1


if __name__ == "__main__":
    raise SystemExit(main())
