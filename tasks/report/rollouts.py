"""RL rollouts as the report reads them: the numbers of every step, and some trajectories for the viewer.

Read a step at a time: a round of long responses does not fit into memory at once.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.reporting.behaviour import Behaviour, measure
from tasks.shared.reporting.offsets import token_ends
from tasks.shared.reporting.samples import SECONDS_FILE, Sample
from tasks.shared.rows.tables import read_table
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.trajectory import CodeCall, FinishReason

COLUMNS = ["step", "problem_id", "family", "sample", "response_ids", "sampled", "logprobs", "text", "calls"]
COLUMNS += ["finish", "reward", "correct", "reason", "shown", "unrecognised", "self_written"]
ROWS_FILE = "train.parquet"
SHOWN = 1000  # trajectories of one round in the viewer


@dataclass(frozen=True, slots=True)
class RlStep:
    """One RL step, counted through all rounds, from its rollouts."""

    step: int
    reward: float
    accuracy: float
    behaviour: Behaviour
    outages: int  # trajectories under which the sandbox failed
    trajectories: int


@dataclass(frozen=True, slots=True)
class Round:
    """The rollouts of one round."""

    steps: list[RlStep]
    shown: list[Sample]  # evenly over the round, in its order; numbered through for each problem


Row = dict[str, Any]


def read_round(store: Store, ref: ArtifactRef, first: int, dialect: str = "retool") -> Round:
    """Read the rollouts of one round in `dialect`. Its steps are numbered from `first`, whatever the round calls them.

    Problems and tokenizer come from the round's inputs.
    """
    directory = store.fetch(ref)
    inputs = store.manifest(ref).provenance.inputs
    problems = {row["id"]: row for row in read_table(store.fetch(inputs["problems"]) / "train.parquet")}
    tokenizer = load_tokenizer(store.fetch(inputs["checkpoint"]))
    every = -(-pq.read_metadata(directory / ROWS_FILE).num_rows // SHOWN)
    steps: list[RlStep] = []
    shown: list[Sample] = []
    row_numbers, numbers = count(), Counter[str]()
    for _, group in groupby(_rows(directory), key=lambda row: row["step"]):
        rows = list(group)
        samples = [_sample(row, problems[row["problem_id"]], dialect) for row in rows]
        steps.append(_step(first + len(steps), samples, rows))
        for sample in samples:
            if next(row_numbers) % every == 0:
                ends = token_ends(tokenizer, sample.response_ids, sample.text)
                # numbered through the round, because its number within a step recurs in the next
                shown.append(replace(sample, sample=numbers[sample.problem_id], token_ends=ends))
                numbers[sample.problem_id] += 1
    return Round(steps, shown)


def _rows(directory: Path) -> Iterator[Row]:
    """Yield the rows with the seconds of their calls, which rollouts of earlier versions have in the calls."""
    rows = _read(directory / ROWS_FILE, COLUMNS)
    if not (directory / SECONDS_FILE).exists():
        yield from rows
        return
    for row, clock in zip(rows, _read(directory / SECONDS_FILE, ["seconds"]), strict=True):
        timed = zip(row["calls"], clock["seconds"], strict=True)
        yield row | {"calls": [call | {"seconds": seconds} for call, seconds in timed]}


def _read(path: Path, columns: list[str]) -> Iterator[Row]:
    for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=columns):
        yield from batch.to_pylist()


def _sample(row: Row, problem: Row, dialect: str) -> Sample:
    """Return a trajectory as a sample without token ends."""
    shown = row.get("shown")
    if shown is None:  # rollouts of earlier versions
        shown = list(islice(DIALECTS[dialect].outputs(row["text"]), len(row["calls"])))
        shown += [(len(row["text"]),) * 2] * (len(row["calls"]) - len(shown))
    return Sample(
        set=problem["source"],
        problem_id=row["problem_id"],
        problem=problem["problem"],
        answer=problem["answer"],
        family=row["family"],
        sample=row["sample"],
        text=row["text"],
        response_ids=row["response_ids"],
        sampled=row["sampled"],
        logprobs=row["logprobs"],
        calls=tuple(CodeCall(**call) for call in row["calls"]),
        finish=FinishReason(row["finish"]),
        correct=row["correct"],
        reason=f"{row['reason']}, step {row['step']}",
        num_tokens=len(row["response_ids"]),
        dialect=dialect,
        shown=shown,
        unrecognised=row.get("unrecognised") or 0,
        self_written=row.get("self_written") or 0,
    )


def _step(number: int, samples: list[Sample], rows: list[Row]) -> RlStep:
    valid = [row for row, sample in zip(rows, samples, strict=True) if not sample.outage]
    return RlStep(
        step=number,
        reward=_mean([row["reward"] for row in valid]),
        accuracy=_mean([row["correct"] for row in valid]),
        behaviour=measure(samples),
        outages=len(rows) - len(valid),
        trajectories=len(rows),
    )


def _mean(values: list[Any]) -> float:
    return sum(values) / len(values) if values else float("nan")
