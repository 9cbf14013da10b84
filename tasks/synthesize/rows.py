"""Traces as rows of a dataset: chat messages and dialect text, spans, block statuses, teacher, scores."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tasks.shared.traces.dialect import Dialect, TraceFormatError
from tasks.synthesize.traces import Checked

if TYPE_CHECKING:
    import pyarrow


def trace_row(entry: Checked, dialect: Dialect, instructed: bool) -> dict[str, Any]:
    """A row of train.parquet or rejected.parquet."""
    written, verdict = entry
    problem, trace = written.problem, verdict.trace
    system = [("system", problem.system)] if problem.system else []
    messages = [*system, ("user", dialect.prompt(problem.problem, instructed)), ("assistant", trace)]
    return {
        "id": written.id,
        "problem_id": problem.id,
        "problem": problem.problem,
        "answer": problem.answer,
        "source": problem.source,
        "family": problem.family,
        "teacher": written.teacher,
        "prompt_digest": written.prompt_digest,
        "trace": trace,
        "messages": [{"role": role, "content": content} for role, content in messages],
        "spans": spans(trace, dialect),
        "num_calls": len(verdict.block_status),
        "block_status": list(verdict.block_status),
        "num_replaced": verdict.num_replaced,
        "scores": asdict(verdict.scores),
        "reason": verdict.reason.value,
        "detail": verdict.detail,
        "fault": written.fault.value,
    }


def trace_schema() -> "pyarrow.Schema":
    """The columns of `trace_row`."""
    import pyarrow

    text, whole, share = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    scores = {"code_work": whole, "latin_share": share, "pass_rate": share}
    scores |= {"novelty": share, "significance": share}
    columns: dict[str, Any] = dict.fromkeys(("id", "problem_id", "problem", "answer", "source"), text)
    columns |= dict.fromkeys(("family", "teacher", "prompt_digest", "trace"), text)
    columns |= {
        "messages": pyarrow.list_(pyarrow.struct([("role", text), ("content", text)])),
        "spans": pyarrow.list_(pyarrow.struct([("kind", text), ("start", whole), ("end", whole)])),
        "num_calls": whole,
        "block_status": pyarrow.list_(text),
        "num_replaced": whole,
        "scores": pyarrow.struct(list(scores.items())),
    }
    columns |= dict.fromkeys(("reason", "detail", "fault"), text)
    return pyarrow.schema(list(columns.items()))


def spans(trace: str, dialect: Dialect) -> list[dict[str, Any]]:
    """The spans `trace[start:end]` of programs and interpreter output; none if the trace does not follow the dialect.

    A `code` span is the program as it is written, an `interpreter` span all that is masked out of the loss.
    """
    try:
        segments = dialect.split(trace)
    except TraceFormatError:
        return []
    found, start = [], 0
    for segment in segments:
        end = start + len(segment.text)
        if segment.is_feedback:
            found.append({"kind": "interpreter", "start": start, "end": end})
        elif segment.code is not None:
            assert segment.block is not None
            first, last = start + segment.block.first, start + segment.block.last
            found.append({"kind": "code", "start": first, "end": last})
        start = end
    return found
