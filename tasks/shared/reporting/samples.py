"""The evaluated sample: one response with live code and its grade, as a record and as a row of `samples.parquet`.

pandas and `datasets.load_dataset("parquet", ...)` open the file as it is. In an evaluation the seconds of its calls lie
beside it, under `circumstances/`: equal samples give equal files and an equal digest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.shared.artifacts import VOLATILE
from tasks.shared.traces.trajectory import CodeCall, FinishReason, turns_between

CALL = pa.struct(
    [
        ("code", pa.string()),
        ("status", pa.string()),
        ("observation", pa.string()),
        ("turn_end", pa.int32()),
        ("feedback_end", pa.int32()),
    ]
)
SHOWN = pa.list_(pa.list_(pa.int32()))  # [start, end) of each call's feedback, in characters of the text
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
        ("calls", pa.list_(CALL)),
        ("finish", pa.string()),
        ("correct", pa.bool_()),
        ("reason", pa.string()),
        ("predicted", pa.string()),
        ("num_tokens", pa.int32()),
        ("dialect", pa.string()),
        ("shown", SHOWN),
        ("unrecognised", pa.int32()),
        ("self_written", pa.int32()),
    ]
)
LATER = ("dialect", "shown", "unrecognised", "self_written")  # columns that older files do not have
SECONDS = pa.schema([("seconds", pa.list_(pa.float64()))])  # of the calls, a row a sample, in the same order
SAMPLES_FILE, SECONDS_FILE = "samples.parquet", f"{VOLATILE}/seconds.parquet"


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
    correct: bool  # False for an outage, which no estimate counts
    reason: str  # a GradeReason value, "void" for an outage
    predicted: str | None
    num_tokens: int  # R
    dialect: str = "retool"
    # [start, end) in characters of `text` that the feedback of each call takes; None where it was not kept
    shown: Sequence[Sequence[int]] | None = None
    unrecognised: int = 0  # blocks that were meant as such and are not written as the dialect reads them
    self_written: int = 0  # feedback tags that the model wrote itself

    @property
    def turns(self) -> tuple[str, ...]:
        """What the model wrote before, between and after its feedbacks."""
        return turns_between(self.text, self.feedback_spans)

    @property
    def feedback_spans(self) -> Sequence[Sequence[int]]:
        """`shown`; of samples that were kept without it, by the ends of their tokens."""
        if self.shown is not None:
            return self.shown
        ends = (0, *self.token_ends)
        last = len(ends) - 1
        return [(ends[min(call.turn_end, last)], ends[min(call.feedback_end, last)]) for call in self.calls]

    @property
    def outage(self) -> bool:
        """The sandbox failed under it: says nothing about the model."""
        return self.finish is FinishReason.SANDBOX_FAILURE

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies a sample within an evaluation."""
        return (self.set, self.problem_id, self.sample)


def write_samples(directory: Path, samples: Iterable[Sample]) -> None:
    """Write both files into `directory`; equal samples give equal bytes of the first."""
    rows = [asdict(sample) | {"finish": sample.finish.value} for sample in samples]
    seconds = [{"seconds": [call.pop("seconds") for call in row["calls"]]} for row in rows]
    (directory / SECONDS_FILE).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), directory / SAMPLES_FILE)
    pq.write_table(pa.Table.from_pylist(seconds, schema=SECONDS), directory / SECONDS_FILE)


def read_samples(directory: Path, dialect: str = "retool") -> list[Sample]:
    """The samples of an evaluation, in its order; `dialect`: of samples that were kept without the name of theirs."""
    rows = pq.read_table(directory / SAMPLES_FILE, schema=SCHEMA).to_pylist()
    seconds = pq.read_table(directory / SECONDS_FILE, schema=SECONDS).to_pylist()
    return [_sample(row, clock["seconds"], dialect) for row, clock in zip(rows, seconds, strict=True)]


def _sample(row: dict[str, Any], seconds: Sequence[float], dialect: str) -> Sample:
    calls = tuple(CodeCall(**call, seconds=spent) for call, spent in zip(row["calls"], seconds, strict=True))
    known = {name: value for name, value in row.items() if value is not None or name not in LATER}
    return Sample(**({"dialect": dialect} | known | {"calls": calls, "finish": FinishReason(row["finish"])}))
