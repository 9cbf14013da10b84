"""Rollouts as a dataset: one row a trajectory, with everything the update saw of it.

Each step is one shard in the scratch directory, written atomically. At the end the shards become `train.parquet`,
which pandas and `datasets.load_dataset` open as it is. Equal rounds give equal bytes: the seconds of the calls lie
beside it, under `circumstances/`, a row a trajectory in the same order.

It is also the record of the round: `read_step` returns what a step was trained on, to the bit.
"""

import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.rl.experience import Experience, Graded
from tasks.shared.reporting.samples import CALL, SECONDS, SECONDS_FILE, SHOWN
from tasks.shared.rows.tables import read_table, write_card, write_table
from tasks.shared.traces.own_words import own_words
from tasks.shared.traces.trajectory import CodeCall, FinishReason, Trajectory, turns_between

ROWS_FILE = "train.parquet"
GRADE = "group", "family", "correct", "reason", "outcome", "reward"
VERSION = pa.struct([("step", pa.int32()), ("tokens", pa.int32())])
# A trajectory before its step: all that is known of a waiting group.
GRADED = pa.schema(
    [
        ("problem_id", pa.string()),
        ("family", pa.string()),
        ("sample", pa.int32()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("sampled", pa.list_(pa.bool_())),
        ("logprobs", pa.list_(pa.float32())),
        ("text", pa.string()),
        ("calls", pa.list_(CALL)),
        ("shown", SHOWN),
        ("unrecognised", pa.int32()),
        ("self_written", pa.int32()),
        ("wrote_code", pa.bool_()),
        # steps done before the weights were made, and how many tokens they sampled
        ("versions", pa.list_(VERSION)),
        ("finish", pa.string()),
        ("group", pa.int32()),
        ("outcome", pa.float64()),
        ("reward", pa.float64()),
        ("correct", pa.bool_()),
        ("reason", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("step", pa.int32()),
        *GRADED,
        ("void", pa.bool_()),  # a void turn, not an outage
        ("in_loss", pa.bool_()),
        ("advantage", pa.float32()),
    ]
)
SHARD = pa.schema([*SCHEMA, *SECONDS])
GROUP = pa.schema([*GRADED, *SECONDS])


def write_group(path: Path, group: Sequence[Graded]) -> None:
    """Write the trajectories of one group, atomically; they are on disk when this returns."""
    partial = path.with_suffix(".partial")
    write_table(partial, [_graded_row(row) for row in group], GROUP)
    _sync(partial)
    os.replace(partial, path)
    _sync(path.parent)  # the name


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_group(path: Path) -> list[Graded]:
    """The group that `write_group` wrote."""
    return [graded_of(row) for row in read_table(path)]


def read_step(directory: Path, step: int) -> list[Graded]:
    """The graded trajectories of a step in a rollouts artifact; the seconds of calls, which training ignores, are 0.

    ValueError if the artifact has none of that step.
    """
    rows = pq.read_table(directory / ROWS_FILE, filters=[("step", "=", step)]).to_pylist()
    if not rows:
        raise ValueError(
            f"{directory}: no trajectories of step {step} in this record; give that of the same round"
        )
    return [graded_of(row) for row in rows]


def graded_of(row: Mapping[str, Any]) -> Graded:
    """The trajectory of a row. ValueError for a row of an earlier version, which lacks columns."""
    if missing := [name for name in GRADED.names if name not in row]:
        raise ValueError(f"these rollouts have no {', '.join(missing)}: they cannot be trained on again")
    shown = tuple((start, end) for start, end in row["shown"])
    seconds = row.get("seconds") or [0.0] * len(row["calls"])
    trajectory = Trajectory(
        problem_id=row["problem_id"],
        sample=row["sample"],
        prompt_ids=tuple(row["prompt_ids"]),
        response_ids=array("i", row["response_ids"]),
        loss_mask=array("b", row["sampled"]),
        logprobs=array("f", row["logprobs"]),
        calls=tuple(CodeCall(**call, seconds=s) for call, s in zip(row["calls"], seconds, strict=True)),
        finish=FinishReason(row["finish"]),
        text=row["text"],
        own_words=own_words(turns_between(row["text"], shown)),
        shown=shown,
        unrecognised=row["unrecognised"],
        self_written=row["self_written"],
        wrote_code=row["wrote_code"],
        versions=tuple((version["step"], version["tokens"]) for version in row["versions"]),
    )
    return Graded(trajectory, **{name: row[name] for name in GRADE})


class RolloutShards:
    """The rollouts of one round while it runs."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def write(self, round_number: int, step: int, experience: Experience) -> None:
        """Write the trajectories of step `step`, counted from 1 over all rounds, in place of earlier ones."""
        rows = [_row(round_number, step, experience, i) for i in range(len(experience.graded))]
        partial = self._directory / "partial"
        write_table(partial, rows, SHARD)
        os.replace(partial, self._path(step))

    def publish(self, directory: Path, first_step: int, last_step: int) -> None:
        """Join the shards of these steps into `directory`/train.parquet and SECONDS_FILE."""
        (directory / SECONDS_FILE).parent.mkdir()
        with (
            pq.ParquetWriter(directory / ROWS_FILE, SCHEMA) as rows,
            pq.ParquetWriter(directory / SECONDS_FILE, SECONDS) as seconds,
        ):
            for step in range(first_step, last_step + 1):
                table = pq.read_table(self._path(step), schema=SHARD)
                rows.write_table(table.select(SCHEMA.names))
                seconds.write_table(table.select(SECONDS.names))
        write_card(directory, {"default": ROWS_FILE}, "Rollouts of one RL round, one row a trajectory.")

    def _path(self, step: int) -> Path:
        return self._directory / f"step-{step:06d}.parquet"


def _row(round_number: int, step: int, experience: Experience, i: int) -> dict[str, Any]:
    return {
        "round": round_number,
        "step": step,
        **_graded_row(experience.graded[i]),
        "void": bool(experience.void_turn[i]),
        "in_loss": bool(experience.in_loss[i]),
        "advantage": float(experience.advantages[i]),
    }


def _graded_row(row: Graded) -> dict[str, Any]:
    trajectory = row.trajectory
    calls = [asdict(call) for call in trajectory.calls]
    return {
        **{name: getattr(trajectory, name) for name in GRADED.names if hasattr(trajectory, name)},
        **{name: getattr(row, name) for name in GRADE},
        "sampled": np.array(trajectory.loss_mask, dtype=bool),
        "seconds": [call.pop("seconds") for call in calls],
        "calls": calls,
        "versions": [{"step": step, "tokens": count} for step, count in trajectory.versions],
        "finish": trajectory.finish.value,
    }
