"""Accuracy of base, SFT and RL over recipes and seeds, from runs that are in the store, as a markdown table.

    tirflow up
    for seed in 0 1 2; do tirflow run train/tiny run=tiny-$seed overrides.seed=$seed; done
    python -m benchmarks.seeds tiny tiny_text --seeds 0 1 2

A run is looked up as `<recipe>-<seed>`. Intervals are those of its report, with the problem as the unit. Differences
are paired by problem.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import markdown_table
from tasks.shared.artifacts import Store
from tasks.shared.contract.environment import store_uri
from tasks.shared.runs.record import RunRecords


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Accuracy over recipes and seeds")
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", default="held_out")
    options = parser.parse_args()
    header = ["recipe", "seed", "base", "SFT", "RL", "RL - SFT, paired 95 %", "code ratio SFT, RL", "seconds"]
    rows = [_row(recipe, seed, options.set) for recipe in options.recipes for seed in options.seeds]
    print("\n".join(markdown_table(header, rows)))


def _row(recipe: str, seed: int, set_name: str) -> list[str]:
    record = RunRecords(store_uri()).read(f"{recipe}-{seed}")
    report = Store(store_uri()).fetch(record.output("report", "report"))
    scores = json.loads((Path(report) / "summary.json").read_text())["sets"][set_name]
    checkpoints = scores["checkpoints"]
    accuracies = [
        _percent(checkpoints[name]["accuracy"], checkpoints[name]["interval"]) if name in checkpoints else "-"
        for name in ("base", "sft", "rl")
    ]
    gain = scores["differences"]["rl-sft"]["difference"]
    interval = (gain["interval"]["low"], gain["interval"]["high"])
    ratios = [f"{100 * checkpoints[name]['behaviour']['code_ratio']:.1f}" for name in ("sft", "rl")]
    seconds = sum(stage.seconds for stage in record.stages.values())
    paired = _percent(gain["value"], interval, sign="+")
    return [recipe, str(seed), *accuracies, paired, ", ".join(ratios), f"{seconds:.0f}"]


def _percent(value: float, interval: Sequence[float], sign: str = "") -> str:
    low, high = interval
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


if __name__ == "__main__":
    main()
