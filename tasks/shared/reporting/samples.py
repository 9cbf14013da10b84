"""The evaluated sample: one response with live code and its grade, as a record and as a row of `samples.parquet`.

pandas and `datasets.load_dataset("parquet", ...)` open the file as it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.shared.traces.trajectory import CodeCall, FinishReason

SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("problem_id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("family", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("response_ids", pa.list_(pa.int32())),
        ("sampled", pa.list_(pa.bool_())),
        ("logprobs", pa.list_(pa.float32())),
        ("token_ends", pa.list_(pa.int32())),
        (
            "calls",
            pa.list_(
                pa.struct(
                    [
                        ("code", pa.string()),
                        ("status", pa.string()),
                        ("observation", pa.string()),
                        ("seconds", pa.float64()),
                        ("turn_end", pa.int32()),
                        ("feedback_end", pa.int32()),
                    ]
                )
            ),
        ),
        ("finish", pa.string()),
        ("correct", pa.bool_()),
        ("reason", pa.string()),
        ("predicted", pa.string()),
        ("num_tokens", pa.int32()),
        ("seconds", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One graded response. Lengths: R response tokens."""

    set: str  # name of the evaluation set
    problem_id: str
    problem: str
    answer: str  # the reference
    family: str  # of the tiny world, else ""
    sample: int  # index among the samples of this problem
    text: str
    response_ids: Sequence[int]  # (R,)
    sampled: Sequence[bool]  # (R,) False on interpreter output
    logprobs: Sequence[float]  # (R,)
    token_ends: Sequence[int]  # (R,) characters of `text` that are there after each token
    calls: Sequence[CodeCall]
    finish: FinishReason
    correct: bool  # False for a void sample, which no estimate counts
    reason: str  # a GradeReason value, "void" for a void sample
    predicted: str | None
    num_tokens: int  # R
    seconds: float  # in the interpreter, all calls

    @property
    def void(self) -> bool:
        """The sandbox failed under it: says nothing about the model."""
        return self.finish is FinishReason.SANDBOX_FAILURE

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies a sample within an evaluation."""
        return (self.set, self.problem_id, self.sample)


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write a parquet file; equal samples give equal bytes."""
    rows = [asdict(sample) | {"finish": sample.finish.value} for sample in samples]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def read_samples(path: Path) -> list[Sample]:
    """The samples of a parquet file, in its order."""
    return [_sample(row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]


def _sample(row: dict[str, Any]) -> Sample:
    calls = tuple(CodeCall(**call) for call in row["calls"])
    return Sample(**(row | {"calls": calls, "finish": FinishReason(row["finish"])}))
