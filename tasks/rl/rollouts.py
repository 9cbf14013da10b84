"""Rollouts as a dataset: one row a trajectory, with everything the update saw of it.

Each step is one shard in the scratch directory, written whole; at the end the shards become `train.parquet`, which
pandas and `datasets.load_dataset` open as it is. Equal rounds give equal bytes of it: the seconds of the calls lie
beside it, under `circumstances/`, a row a trajectory in the same order.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.rl.experience import Experience
from tasks.shared.reporting.samples import CALL, SECONDS, SECONDS_FILE, SHOWN
from tasks.shared.tables import write_card, write_table

SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("step", pa.int32()),
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
        ("finish", pa.string()),
        ("reward", pa.float32()),
        ("correct", pa.bool_()),
        ("reason", pa.string()),
        ("void", pa.bool_()),
        ("in_loss", pa.bool_()),
        ("advantage", pa.float32()),
    ]
)
SHARD = pa.schema([*SCHEMA, *SECONDS])


class RolloutShards:
    """The rollouts of one round while it runs."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def write(self, round_number: int, step: int, experience: Experience) -> None:
        """Keep the trajectories of step `step`, counted from 1 over all rounds; what was there is replaced."""
        rows = [_row(round_number, step, experience, i) for i in range(len(experience.graded))]
        partial = self._directory / "partial"
        write_table(partial, rows, SHARD)
        os.replace(partial, self._path(step))

    def publish(self, directory: Path, first_step: int, last_step: int) -> int:
        """Join the shards of these steps into `directory`/train.parquet and SECONDS_FILE; the number of rows."""
        (directory / SECONDS_FILE).parent.mkdir()
        num_rows = 0
        with (
            pq.ParquetWriter(directory / "train.parquet", SCHEMA) as rows,
            pq.ParquetWriter(directory / SECONDS_FILE, SECONDS) as seconds,
        ):
            for step in range(first_step, last_step + 1):
                table = pq.read_table(self._path(step), schema=SHARD)
                num_rows += table.num_rows
                rows.write_table(table.select(SCHEMA.names))
                seconds.write_table(table.select(SECONDS.names))
        write_card(directory, {"default": "train.parquet"}, "Rollouts of one RL round, one row a trajectory.")
        return num_rows

    def _path(self, step: int) -> Path:
        return self._directory / f"step-{step:06d}.parquet"


def _row(round_number: int, step: int, experience: Experience, i: int) -> dict[str, Any]:
    row = experience.graded[i]
    trajectory = row.trajectory
    calls = [asdict(call) for call in trajectory.calls]
    seconds = [call.pop("seconds") for call in calls]
    return {
        "round": round_number,
        "step": step,
        "problem_id": trajectory.problem_id,
        "family": row.family,
        "sample": trajectory.sample,
        "prompt_ids": trajectory.prompt_ids,
        "response_ids": trajectory.response_ids,
        "sampled": np.array(trajectory.sampled, dtype=bool),
        "logprobs": trajectory.logprobs,
        "text": trajectory.text,
        "calls": calls,
        "shown": trajectory.shown,
        "unrecognised": trajectory.unrecognised,
        "self_written": trajectory.self_written,
        "finish": trajectory.finish.value,
        "reward": row.reward,
        "correct": row.correct,
        "reason": row.reason,
        "void": bool(experience.void[i]),
        "in_loss": bool(experience.in_loss[i]),
        "advantage": float(experience.advantages[i]),
        "seconds": seconds,
    }
