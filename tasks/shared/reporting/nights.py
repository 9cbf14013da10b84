"""The decisions of a night as pure functions: has a checkpoint become worse, may one be promoted, what has changed.

A night compares each tagged checkpoint, paired by problem, with its last night and with its reference. Over all
comparisons of a night together, chance alone raises an alert in at most `FALSE_ALERTS` of the nights (Bonferroni).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.shared.artifacts import Manifest
from tasks.shared.config.differences import differences
from tasks.shared.estimates.accuracy import Evaluation
from tasks.shared.estimates.comparison import Comparison, compare
from tasks.shared.reporting.charts import Line

FALSE_ALERTS = 0.02  # share of nights without a change that may alert
EVENT = "tirflow.evaluation.regression"


@dataclass(frozen=True, slots=True)
class Night:
    """One checkpoint's score on one set in one night."""

    day: str  # ISO date
    tag: str  # promoted, latest of a run, ...
    set: str
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Drop:
    """A comparison that shows a loss beyond chance."""

    tag: str
    set: str
    against: str  # "last night" or "reference"
    comparison: Comparison

    @property
    def message(self) -> str:
        """One line for people."""
        difference = self.comparison.difference
        return (
            f"{self.tag} on {self.set} fell by {-difference.value * 100:.1f} points against {self.against} "
            f"({difference.interval.level:.1%} interval {difference.interval.low * 100:+.1f} to "
            f"{difference.interval.high * 100:+.1f})"
        )


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a candidate may carry the tag, and why."""

    promote: bool
    reason: str


Pair = tuple[str, str, str, Evaluation, Evaluation]  # tag, set, against, before, tonight


def significant_drops(pairs: Sequence[Pair]) -> list[Drop]:
    """The comparisons of one night whose whole interval lies below zero.

    The level is two-sided 1 - 2 * FALSE_ALERTS / number of comparisons: one side alone can alert.
    """
    if not pairs:
        return []
    level = 1 - 2 * FALSE_ALERTS / len(pairs)
    drops = []
    for tag, set_name, against, before, tonight in pairs:
        result = compare(before, tonight, level)
        if result.difference.interval.high < 0:
            drops.append(Drop(tag, set_name, against, result))
    return drops


def promotion_gate(incumbent: Evaluation, candidate: Evaluation, threshold: float = 0.0) -> Gate:
    """No promotion if the paired 95 % interval of candidate minus incumbent lies below `threshold`.

    A negative threshold allows a loss up to that size. An interval that contains the threshold passes and says that it
    is not decided.
    """
    difference = compare(incumbent, candidate).difference
    interval = difference.interval
    span = f"{difference.value * 100:+.1f} points, {interval.low * 100:+.1f} to {interval.high * 100:+.1f}"
    limit = f"the threshold {threshold * 100:+.1f}"
    if interval.high < threshold:
        return Gate(False, f"refused: {span}, wholly below {limit}")
    if interval.low < threshold:
        return Gate(True, f"passes, not decided: {span} contains {limit}")
    return Gate(True, f"passes: {span}, not below {limit}")


def regression_event(drop: Drop, run: str, report: str) -> dict[str, Any]:
    """The arguments of a Prefect event, on which an automation can fire."""
    return {
        "event": EVENT,
        "resource": {
            "prefect.resource.id": f"tirflow.checkpoint.{drop.tag}",
            "prefect.resource.name": drop.tag,
        },
        "payload": {
            "run": run,
            "set": drop.set,
            "against": drop.against,
            "message": drop.message,
            "report": report,
            "comparison": asdict(drop.comparison),
        },
    }


def scores_of_night(day: str, tag: str, manifest: Manifest) -> list[Night]:
    """The scores of one night's evaluation, one for each set, from the headline metrics in its manifest."""
    metrics = {key: float(value or 0.0) for key, value in manifest.metrics.items()}
    names = [key.removesuffix("/accuracy") for key in metrics if key.endswith("/accuracy")]
    return [
        Night(day, tag, name, *(metrics[f"{name}/{key}"] for key in ("accuracy", "low", "high")))
        for name in names
    ]


@dataclass(frozen=True, slots=True)
class Trend:
    """Accuracy over nights on one set, ready to be drawn."""

    set: str
    title: str
    lines: tuple[Line, ...]  # one a tag, x is the number of the night
    x_label: str


def trends(nights: Sequence[Night]) -> list[Trend]:
    """A curve of accuracy over nights for each set, a line with its band for each tag."""
    days = {day: number for number, day in enumerate(sorted({night.day for night in nights}), start=1)}
    by_set: dict[str, dict[str, list[Night]]] = {}
    for night in sorted(nights, key=lambda night: night.day):
        by_set.setdefault(night.set, {}).setdefault(night.tag, []).append(night)
    found = []
    for set_name, by_tag in by_set.items():
        lines = [
            Line(
                tag,
                xs=[days[night.day] for night in of_tag],
                ys=[night.accuracy for night in of_tag],
                low=[night.low for night in of_tag],
                high=[night.high for night in of_tag],
                tone=tone % 5,
            )
            for tone, (tag, of_tag) in enumerate(by_tag.items())
        ]
        x_label = f"night: 1 is {min(days)}, {len(days)} is {max(days)}"
        found.append(Trend(set_name, f"Accuracy on {set_name} by night", tuple(lines), x_label))
    return found


def what_changed(
    before: Manifest,
    after: Manifest,
    versions_before: Mapping[str, str] | None = None,
    versions_after: Mapping[str, str] | None = None,
) -> list[str]:
    """The differences between the provenance (and versions) of two evaluations, one line each.

    Explains why equal seeds gave different samples (`samples_digest`).
    """
    old = asdict(before.provenance) | {"surroundings": versions_before or {}}
    new = asdict(after.provenance) | {"surroundings": versions_after or {}}
    return differences(old, new)
