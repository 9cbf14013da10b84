"""What a report is made of, read from its input artifacts; each is optional except one evaluation.

Inputs: `evaluation_<name>` for the names in `report.evaluations`, `night_<day>_<tag>`, `sft`, `traces`, `rollouts_<n>`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.report.asynchronous import read_measured
from tasks.report.rejected import read_rejected
from tasks.report.rollouts import RlStep, read_round
from tasks.report.spec import ReportStage
from tasks.shared.artifacts import Manifest
from tasks.shared.contract.stage import StageContext
from tasks.shared.reporting.evaluated import Evaluated, read_evaluated
from tasks.shared.reporting.nights import Night, scores_of_night
from tasks.shared.reporting.samples import Sample, read_samples
from tasks.shared.traces.dialect import dialect_of

DAY = len("2026-11-01")


@dataclass(frozen=True, slots=True)
class EvaluationInput:
    """One checkpoint's evaluation."""

    checkpoint: str  # or what else tells it apart: "last night", "demo/sft"
    samples: list[Sample]
    summary: dict[str, Any]
    evaluated: Evaluated | None = None  # its manifest and outcomes, where it was read from a store


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """All that was found."""

    evaluations: list[EvaluationInput]
    sft: list[dict[str, float]]  # metrics.jsonl
    validation: list[dict[str, float]]  # validation.jsonl of SFT; empty where nothing was held out
    evaluated: list[dict[str, Any]]  # evaluation.jsonl of every round: the curve while RL trained
    rl: list[RlStep]
    rounds: list[int]  # last step of each round
    ahead: list[dict[str, Any]]  # metrics and timing of asynchronous steps
    written: dict[str, list[Sample]]  # for the viewer: `rejected traces`, `rollouts <round>`
    funnel: dict[str, Any] | None
    manifests: dict[str, Manifest]
    nights: list[Night]


def read_inputs(context: StageContext[ReportStage]) -> ReportInputs:
    """Read every input of the request. ValueError if there is no evaluation."""
    names = context.request.inputs
    order = context.config.report.evaluations
    given = [name for name in names if name.startswith("evaluation_")]
    present = [name for name in order if f"evaluation_{name}" in given]
    if not present:
        raise ValueError(
            f"report: no evaluation among its inputs; give {' or '.join(f'evaluation_{name}' for name in order)}"
        )
    if len(present) < len(given):
        unknown = sorted(set(given) - {f"evaluation_{name}" for name in present})
        raise ValueError(f"report: input '{unknown[0]}' is not in report.evaluations; name it there")
    evaluations = [_read_evaluation(context, name) for name in present]
    steps, rounds, written = _read_rollouts(context)
    if "traces" in names:
        written = {"rejected traces": _read_rejected(context), **written}
    return ReportInputs(
        evaluations=evaluations,
        sft=_read_metrics(context.input("sft") / "metrics.jsonl") if "sft" in names else [],
        validation=_read_metrics(context.input("sft") / "validation.jsonl") if "sft" in names else [],
        evaluated=_read_curve(context),
        rl=steps,
        rounds=rounds,
        ahead=[
            step
            for name, ref in sorted(names.items())
            if name.startswith("rollouts_")
            for step in read_measured(context.store.fetch(ref))
        ],
        written=written,
        funnel=json.loads((context.input("traces") / "funnel.json").read_text())
        if "traces" in names
        else None,
        manifests={
            name: context.store.manifest(ref) for name, ref in names.items() if not name.startswith("night_")
        },
        nights=_read_nights(context),
    )


def _read_evaluation(context: StageContext[ReportStage], name: str) -> EvaluationInput:
    ref = context.request.inputs[f"evaluation_{name}"]
    evaluated = read_evaluated(context.store, ref)
    dialect = evaluated.summary.get("protocol", {}).get("dialect", context.config.traces.dialect)
    samples = read_samples(context.store.fetch(ref), dialect)
    return EvaluationInput(name, samples, dict(evaluated.summary), evaluated)


def _read_nights(context: StageContext[ReportStage]) -> list[Night]:
    """The scores of `night_<day>_<tag>` inputs, from their manifests alone: no night's samples are read."""
    nights = []
    for name, ref in context.request.inputs.items():
        if name.startswith("night_"):
            dated = name.removeprefix("night_")
            day, tag = dated[:DAY], dated[DAY + 1 :]
            nights += scores_of_night(day, tag, context.store.manifest(ref))
    return nights


def _read_rollouts(
    context: StageContext[ReportStage],
) -> tuple[list[RlStep], list[int], dict[str, list[Sample]]]:
    """Every round in order: all steps, the last step of each round, trajectories to show by round."""
    names = context.request.inputs
    numbers = sorted(int(name.removeprefix("rollouts_")) for name in names if name.startswith("rollouts_"))
    steps: list[RlStep] = []
    rounds, shown = [], {}
    for number in numbers:
        ref = names[f"rollouts_{number}"]
        made = read_round(context.store, ref, len(steps) + 1, context.config.traces.dialect)
        steps += made.steps
        rounds.append(len(steps))
        shown[f"rollouts {number}"] = made.shown
    return steps, rounds, shown


def _read_curve(context: StageContext[ReportStage]) -> list[dict[str, Any]]:
    """The evaluations made while RL trained, in the order of steps."""
    rounds = [name for name in context.request.inputs if name.startswith("rollouts_")]
    points = [point for name in rounds for point in _read_metrics(context.input(name) / "evaluation.jsonl")]
    return sorted(points, key=lambda point: int(point["step"]))


def _read_rejected(context: StageContext[ReportStage]) -> list[Sample]:
    return read_rejected(context.input("traces"), dialect_of(context.config.traces))


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; none where the stage wrote no such file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
