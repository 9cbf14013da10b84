"""Rejected traces for the viewer: what was written, which block ended how, and why the trace was not taken."""

from collections import Counter
from pathlib import Path
from typing import Any

from tasks.shared.reporting.samples import Sample
from tasks.shared.rows.tables import read_table
from tasks.shared.traces.dialect import Dialect, Segment, TraceFormatError
from tasks.shared.traces.trajectory import NOTICE, CodeCall, FinishReason

SHOWN = 50  # of each reason
DETAIL_CHARS = 120


def read_rejected(directory: Path, dialect: Dialect) -> list[Sample]:
    """The first rejected traces of each reason. A written trace has no tokens, hence no log-probs."""
    shown: list[Sample] = []
    taken: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for row in read_table(directory / "rejected.parquet"):
        if taken[row["reason"]] < SHOWN:
            taken[row["reason"]] += 1
            shown.append(_sample(row, numbers[row["problem_id"]], dialect))
            numbers[row["problem_id"]] += 1
    return shown


def _sample(row: dict[str, Any], number: int, dialect: Dialect) -> Sample:
    """A trace as a sample whose pieces stand where tokens do: own words, output, own words."""
    pieces = _pieces(row["trace"], dialect)
    ends, end = [], 0
    for piece in pieces:
        ends.append(end := end + len(piece.text))
    detail = " ".join(row["detail"].split())[:DETAIL_CHARS]
    return Sample(
        set=row["source"],
        problem_id=row["problem_id"],
        problem=row["problem"],
        answer=row["answer"],
        family=row["family"],
        sample=number,
        text=row["trace"],
        response_ids=(),
        sampled=(),
        logprobs=(),
        token_ends=ends,
        calls=_calls(pieces, row["block_status"]),
        finish=FinishReason.EOS,
        correct=False,
        reason=f"{row['reason']}: {detail}" if detail else row["reason"],
        predicted=None,
        num_tokens=0,
        dialect=dialect.name,
        shown=[(ends[place - 1], ends[place]) for place, piece in enumerate(pieces) if piece.is_feedback],
    )


def _pieces(trace: str, dialect: Dialect) -> list[Segment]:
    try:
        return dialect.split(trace)
    except TraceFormatError:
        return [Segment(trace, is_feedback=False)]  # that is why it was rejected


def _calls(pieces: list[Segment], statuses: list[str]) -> tuple[CodeCall, ...]:
    """The blocks that have output; a block that verification did not get to is told as such."""
    calls: list[CodeCall] = []
    left = iter(statuses)
    for place, piece in enumerate(pieces):
        if piece.block is not None:
            status = NOTICE if piece.block.fault else next(left, "not executed")
            output = pieces[place + 1].observation or ""
            calls.append(CodeCall(piece.block.code, status, output, 0.0, place + 1, place + 2))
    return tuple(calls)
