"""What a report is made of, read from its input artifacts; each is optional except one evaluation.

Inputs: `evaluation_<name>` for the names in `report.evaluations`, `night_<day>_<tag>`, `sft`, `traces`, `rollouts_<n>`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks.shared.artifacts import Manifest
from tasks.shared.config import ReportStage
from tasks.shared.reporting.evaluated import Evaluated, read_evaluated
from tasks.shared.reporting.nights import Night, scores_of_night
from tasks.shared.reporting.samples import Sample, read_samples
from tasks.shared.stage import StageContext

DAY = len("2026-11-01")


@dataclass(frozen=True, slots=True)
class EvaluationInput:
    """One checkpoint's evaluation."""

    checkpoint: str  # or what else tells it apart: "last night", "demo/sft"
    samples: list[Sample]
    summary: dict[str, Any]
    evaluated: Evaluated | None = None  # its manifest and outcomes, where it was read from a store


@dataclass(frozen=True, slots=True)
class RlStep:
    """One RL step, counted through all rounds, from its rollouts."""

    step: int
    reward: float
    accuracy: float
    code_ratio: float
    pass_ratio: float  # NaN without a call
    response_tokens: float
    calls: float  # mean a trajectory
    void: int  # sandbox failures
    trajectories: int


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """All that was found."""

    evaluations: list[EvaluationInput]
    sft: list[dict[str, float]]  # metrics.jsonl
    rl: list[RlStep]
    rounds: list[int]  # last step of each round
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
    numbers = sorted(int(name.removeprefix("rollouts_")) for name in names if name.startswith("rollouts_"))
    steps: list[RlStep] = []
    rounds = []
    for number in numbers:
        steps += read_rollouts(context.input(f"rollouts_{number}") / "train.parquet", first=len(steps) + 1)
        rounds.append(len(steps))
    return ReportInputs(
        evaluations=evaluations,
        sft=_read_metrics(context.input("sft") / "metrics.jsonl") if "sft" in names else [],
        rl=steps,
        rounds=rounds,
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
    samples = read_samples(context.store.fetch(ref) / "samples.parquet")
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


def read_rollouts(path: Path, first: int) -> list[RlStep]:
    """The steps of one round; they are numbered on from `first`, whatever the round calls them."""
    columns = ["step", "reward", "correct", "finish", "calls", "response_ids"]
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in _rows(path, columns):
        by_step.setdefault(row["step"], []).append(row)
    return [_step(first + place, by_step[step]) for place, step in enumerate(sorted(by_step))]


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(path).iter_batches(batch_size=1024, columns=columns):
        yield from batch.to_pylist()


def _step(number: int, rows: list[dict[str, Any]]) -> RlStep:
    valid = [row for row in rows if row["finish"] != "sandbox_failure"]
    statuses = [call["status"] for row in valid for call in row["calls"]]
    ran = [status in ("ok", "output_cut") for status in statuses]
    return RlStep(
        step=number,
        reward=_mean([row["reward"] for row in valid]),
        accuracy=_mean([row["correct"] for row in valid]),
        code_ratio=_mean([bool(row["calls"]) for row in valid]),
        pass_ratio=_mean(ran),
        response_tokens=_mean([len(row["response_ids"]) for row in valid]),
        calls=_mean([len(row["calls"]) for row in valid]),
        void=len(rows) - len(valid),
        trajectories=len(rows),
    )


def _read_metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _mean(values: list[Any]) -> float:
    return sum(values) / len(values) if values else float("nan")
