"""The curves of asynchronous rounds: the staleness of trained samples, its effect on the gap, and idle times."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tasks.shared.artifacts import VOLATILE
from tasks.shared.reporting.charts import Line, curve, or_gap

FILES = ("metrics.jsonl", f"{VOLATILE}/timing.jsonl")
AGES = "staleness/"  # prefix of the metrics that an asynchronous step has for each age


def read_measured(rollouts: Path) -> list[dict[str, Any]]:
    """Return metrics and timing of each asynchronous step of a rollouts artifact. Synchronous steps are left out."""
    if not all((rollouts / name).is_file() for name in FILES):  # rollouts of an earlier version
        return []
    files = [[json.loads(line) for line in (rollouts / name).read_text().splitlines()] for name in FILES]
    steps = [metrics | timing for metrics, timing in zip(*files, strict=True)]
    return [step for step in steps if any(name.startswith(AGES) for name in step)]


def asynchronous_curves(steps: Sequence[dict[str, Any]]) -> list[Markup]:
    """Draw the charts over the steps that were sampled ahead."""
    ages = sorted(int(name.removeprefix(AGES)) for name in steps[0] if name.startswith(AGES))

    def chart(title: str, names: dict[str, str], share: bool = False) -> Markup:
        numbers = [step["step"] for step in steps]
        lines = [
            Line(label, numbers, [or_gap(step.get(name)) for step in steps], tone=tone + 1)
            for tone, (label, name) in enumerate(names.items())
        ]
        return curve(title, lines, "step", percent=share)

    def by_age(prefix: str) -> dict[str, str]:
        return {f"{age} steps": f"{prefix}{age}" for age in ages}

    return [
        chart("Trajectories by staleness", by_age("staleness/")),
        chart("Gap of sampler and trainer by staleness, nats", by_age("gap_mean/staleness_")),
        chart("KL of sampler and trainer by staleness, nats", by_age("gap_kl/staleness_")),
        chart("Idle", {"sampler": "sampler_idle", "trainer": "trainer_idle"}, share=True),
        chart("Groups", {"waiting": "queue", "in flight": "in_flight", "dropped": "dropped_groups"}),
        chart("Tokens a second", {"sampled": "sampling_tokens_per_s", "trained on": "training_tokens_per_s"}),
    ]
