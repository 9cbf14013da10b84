"""The evaluated sample: one response with live code and its grade, as a record and as a row of `samples.parquet`.

pandas and `datasets.load_dataset("parquet", ...)` open the file. The seconds of its calls lie beside it, under
`circumstances/`, so that equal samples give equal files and an equal digest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.shared.artifacts import VOLATILE
from tasks.shared.traces.call_forms import Block
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.trajectory import CodeCall, FinishReason, turns_between

TEXT, WHOLE = pa.string(), pa.int32()
CALL = pa.struct(
    dict.fromkeys(("code", "status", "observation"), TEXT)
    | dict.fromkeys(("turn_end", "feedback_end"), WHOLE)
)
SHOWN = pa.list_(pa.list_(WHOLE))  # [start, end) of each call's feedback, in characters of the text
SCHEMA = pa.schema(
    dict.fromkeys(("set", "problem_id", "problem", "answer", "family"), TEXT)
    | {"sample": WHOLE, "text": TEXT}
    | {"response_ids": pa.list_(WHOLE), "sampled": pa.list_(pa.bool_()), "logprobs": pa.list_(pa.float32())}
    | {"token_ends": pa.list_(WHOLE), "calls": pa.list_(CALL)}
    | {"finish": TEXT, "correct": pa.bool_(), "reason": TEXT, "predicted": TEXT, "num_tokens": WHOLE}
    | {"dialect": TEXT, "shown": SHOWN, "unrecognised": WHOLE, "self_written": WHOLE}
)
LATER = ("dialect", "shown", "unrecognised", "self_written")  # columns that older files do not have
SECONDS = pa.schema([("seconds", pa.list_(pa.float64()))])  # of the calls, a row a sample, in the same order
SAMPLES_FILE, SECONDS_FILE = "samples.parquet", f"{VOLATILE}/seconds.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One graded response. Lengths: R response tokens; a written trace has none."""

    set: str  # name of the evaluation set
    problem_id: str
    problem: str
    answer: str  # the reference
    family: str  # of the tiny world, else ""
    sample: int  # index among the samples of this problem
    text: str
    response_ids: Sequence[int] = ()  # (R,)
    sampled: Sequence[bool] = ()  # (R,) False on interpreter output
    logprobs: Sequence[float] = ()  # (R,)
    token_ends: Sequence[int] = ()  # (R,) length of `text` in characters after each token
    calls: Sequence[CodeCall]
    finish: FinishReason
    correct: bool  # False for an outage, which no estimate counts
    reason: str  # a GradeReason value, "void" for an outage
    predicted: str | None = None
    num_tokens: int  # R
    dialect: str = "retool"
    # [start, end) in characters of `text` of each call's feedback; None in files that lack it
    shown: Sequence[Sequence[int]] | None = None
    unrecognised: int = 0  # malformed blocks: the dialect cannot read them
    self_written: int = 0  # feedback tags that the model wrote itself

    @property
    def turns(self) -> tuple[str, ...]:
        """The model's text before, between and after its feedbacks."""
        return turns_between(self.text, self.feedback_spans)

    @property
    def feedback_spans(self) -> Sequence[Sequence[int]]:
        """`shown`, or for a sample without it the spans that its token ends give."""
        if self.shown is not None:
            return self.shown
        ends = (0, *self.token_ends)
        last = len(ends) - 1
        return [(ends[min(call.turn_end, last)], ends[min(call.feedback_end, last)]) for call in self.calls]

    @property
    def words_between(self) -> list[str]:
        """The words before each call and those after the last, without the block that ended the turn."""
        *calling, last = self.turns
        blocks = map(DIALECTS[self.dialect].read, calling)
        before = [turn[: block.start] if block else turn for turn, block in zip(calling, blocks, strict=True)]
        return [*before, last]

    def blocks_by_turn(self) -> Iterator[list[Block]]:
        """The blocks of each turn, executed or not, by their places in the text; the last turn ran none."""
        dialect, place = DIALECTS[self.dialect], 0
        ends = [*(end for _, end in self.feedback_spans), len(self.text)]
        for turn, end in zip(self.turns, ends, strict=True):
            yield [block.moved(place) for block in dialect.blocks(turn)]
            place = end

    @property
    def outage(self) -> bool:
        """Whether the sandbox failed, which says nothing about the model."""
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
    """The samples of an evaluation, in its order; `dialect`: of samples in files without that column."""
    rows = pq.read_table(directory / SAMPLES_FILE, schema=SCHEMA).to_pylist()
    seconds = pq.read_table(directory / SECONDS_FILE, schema=SECONDS).to_pylist()
    return [_sample(row, clock["seconds"], dialect) for row, clock in zip(rows, seconds, strict=True)]


def _sample(row: dict[str, Any], seconds: Sequence[float], dialect: str) -> Sample:
    calls = tuple(CodeCall(**call, seconds=spent) for call, spent in zip(row["calls"], seconds, strict=True))
    known = {name: value for name, value in row.items() if value is not None or name not in LATER}
    return Sample(**({"dialect": dialect} | known | {"calls": calls, "finish": FinishReason(row["finish"])}))
