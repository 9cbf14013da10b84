"""Read the inputs of a report from artifacts. All but one evaluation are optional.

Inputs: `evaluation_<name>` for the names in `report.evaluations`, `night_<day>_<tag>`, `sft`, `traces`, `rollouts_<n>`.
"""

import json
from collections.abc import Sequence
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

    checkpoint: str  # or another distinguishing name: "last night", "demo/sft"
    samples: list[Sample]
    summary: dict[str, Any]
    evaluated: Evaluated | None = None  # its manifest and outcomes, where it was read from a store


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """The content of all inputs."""

    evaluations: list[EvaluationInput]
    sft: list[dict[str, float]]  # metrics.jsonl
    validation: list[dict[str, float]]  # validation.jsonl of SFT; empty if nothing was held out
    evaluated: list[dict[str, Any]]  # evaluation.jsonl of every round: the curve while RL trained
    rl: list[RlStep]
    rounds: list[int]  # last step of each round
    ahead: list[dict[str, Any]]  # metrics and timing of asynchronous steps
    written: dict[str, list[Sample]]  # for the viewer: `rejected traces`, `rollouts <round>`
    funnel: dict[str, Any] | None
    manifests: dict[str, Manifest]
    nights: list[Night]


def summary_columns(evaluations: Sequence[EvaluationInput]) -> dict[str, dict[str, Any]]:
    """Return the summary of every checkpoint on every set, under the head of its column in a table."""
    return {
        f"{e.checkpoint}, {name}": values for e in evaluations for name, values in e.summary["sets"].items()
    }


def read_inputs(context: StageContext[ReportStage]) -> ReportInputs:
    """Read every input of the request. Raises ValueError without an evaluation, or for one that is not in the order."""
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
    rollouts = [name for name in names if name.startswith("rollouts_")]
    rollouts.sort(key=lambda name: int(name.removeprefix("rollouts_")))
    steps: list[RlStep] = []
    rounds, shown = [], {}
    for name in rollouts:
        new = read_round(context.store, names[name], len(steps) + 1, context.config.traces.dialect)
        steps += new.steps
        rounds.append(len(steps))
        shown[name.replace("_", " ")] = new.shown
    funnel = None
    if "traces" in names:
        traces = context.input("traces")
        shown = {"rejected traces": read_rejected(traces, dialect_of(context.config.traces)), **shown}
        funnel = json.loads((traces / "funnel.json").read_text())
    sft = context.input("sft") if "sft" in names else None
    directories = [context.input(name) for name in rollouts]
    curve = [point for directory in directories for point in _read_lines(directory / "evaluation.jsonl")]
    return ReportInputs(
        evaluations=[_read_evaluation(context, name) for name in present],
        sft=_read_lines(sft / "metrics.jsonl") if sft else [],
        validation=_read_lines(sft / "validation.jsonl") if sft else [],
        evaluated=sorted(curve, key=lambda point: int(point["step"])),
        rl=steps,
        rounds=rounds,
        ahead=[step for directory in directories for step in read_measured(directory)],
        written=shown,
        funnel=funnel,
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
    """Return the scores of `night_<day>_<tag>` inputs, from their manifests alone."""
    nights = []
    for name, ref in context.request.inputs.items():
        if name.startswith("night_"):
            dated = name.removeprefix("night_")
            day, tag = dated[:DAY], dated[DAY + 1 :]
            nights += scores_of_night(day, tag, context.store.manifest(ref))
    return nights


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines; none if the stage wrote no such file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
