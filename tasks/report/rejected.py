"""Rejected traces for the viewer: the text, the status of each block, and the reason of the rejection."""

from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

from tasks.shared.reporting.samples import Sample
from tasks.shared.rows.tables import read_table
from tasks.shared.traces.dialect import Dialect, Segment, TraceFormatError
from tasks.shared.traces.trajectory import NOTICE, CodeCall, FinishReason

SHOWN = 50  # of each reason
DETAIL_CHARS = 120


def read_rejected(directory: Path, dialect: Dialect) -> list[Sample]:
    """Read the first rejected traces of each reason. A written trace has no tokens, hence no log-probs."""
    shown: list[Sample] = []
    of_reason: Counter[str] = Counter()
    of_problem: Counter[str] = Counter()
    for row in read_table(directory / "rejected.parquet"):
        if of_reason[row["reason"]] < SHOWN:
            of_reason[row["reason"]] += 1
            shown.append(_sample(row, of_problem[row["problem_id"]], dialect))
            of_problem[row["problem_id"]] += 1
    return shown


def _sample(row: dict[str, Any], number: int, dialect: Dialect) -> Sample:
    """Return a trace as a sample with segments (own words, output, own words) in place of tokens."""
    try:
        segments = dialect.split(row["trace"])
    except TraceFormatError:
        segments = [Segment(row["trace"], is_feedback=False)]  # the reason why it was rejected
    ends = list(accumulate(len(segment.text) for segment in segments))
    detail = " ".join(row["detail"].split())[:DETAIL_CHARS]
    return Sample(
        set=row["source"],
        problem_id=row["problem_id"],
        problem=row["problem"],
        answer=row["answer"],
        family=row["family"],
        sample=number,
        text=row["trace"],
        token_ends=ends,
        calls=_calls(segments, row["block_status"]),
        finish=FinishReason.EOS,
        correct=False,
        reason=f"{row['reason']}: {detail}" if detail else row["reason"],
        num_tokens=0,
        dialect=dialect.name,
        shown=[(ends[place - 1], ends[place]) for place, one in enumerate(segments) if one.is_feedback],
    )


def _calls(segments: list[Segment], statuses: list[str]) -> tuple[CodeCall, ...]:
    """Return the blocks that have output, with "not executed" for those that verification did not reach."""
    calls: list[CodeCall] = []
    left = iter(statuses)
    for place, segment in enumerate(segments):
        if segment.block is not None:
            status = NOTICE if segment.block.fault else next(left, "not executed")
            output = segments[place + 1].observation or ""
            calls.append(CodeCall(segment.block.code, status, output, 0.0, place + 1, place + 2))
    return tuple(calls)
