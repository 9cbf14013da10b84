"""Accuracy of base, SFT and RL over recipes and seeds, from runs that are in the store, as a markdown table.

    tirflow up
    for seed in 0 1 2; do tirflow run train/tiny run=tiny-$seed overrides.seed=$seed; done
    python -m benchmarks.seeds tiny tiny_text --seeds 0 1 2

A run is looked up as `<recipe>-<seed>`; intervals are those of its report (the problem is the unit), the differences
paired by problem.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tasks.shared.artifacts import Store
from tasks.shared.contract.environment import store_uri
from tasks.shared.runs.record import RunRecords

CHECKPOINTS = ("base", "sft", "rl")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Accuracy over recipes and seeds")
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", default="held_out")
    arguments = parser.parse_args()
    lines = [
        "| recipe | seed | base | SFT | RL | RL - SFT, paired 95 % | code ratio SFT, RL | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for recipe in arguments.recipes:
        lines += [_row(recipe, seed, arguments.set) for seed in arguments.seeds]
    sys.stdout.write("\n".join(lines) + "\n")


def _row(recipe: str, seed: int, set_name: str) -> str:
    record = RunRecords(store_uri()).read(f"{recipe}-{seed}")
    report = Store(store_uri()).fetch(record.output("report", "report"))
    scores = json.loads((Path(report) / "summary.json").read_text())["sets"][set_name]
    made = scores["checkpoints"]
    cells = [_accuracy(made[name]) if name in made else "-" for name in CHECKPOINTS]
    gain = scores["differences"]["rl-sft"]["difference"]
    ratios = ", ".join(
        _percent(scores["checkpoints"][name]["behaviour"]["code_ratio"]) for name in ("sft", "rl")
    )
    seconds = sum(stage.seconds for stage in record.stages.values())
    paired = f"{100 * gain['value']:+.1f} [{100 * gain['interval']['low']:+.1f}, {100 * gain['interval']['high']:+.1f}]"
    return f"| {recipe} | {seed} | {' | '.join(cells)} | {paired} | {ratios} | {seconds:.0f} |"


def _accuracy(scores: dict[str, Any]) -> str:
    low, high = scores["interval"]
    return f"{_percent(scores['accuracy'])} [{100 * low:.1f}, {100 * high:.1f}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


if __name__ == "__main__":
    main()
