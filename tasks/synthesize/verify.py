"""Verify a written trace: format, every block executed again, recorded output, last block, answer.

The rules run in that order and the first that fails gives the reason. Nothing here knows which teacher wrote the
trace or whether it erred on purpose.
"""

from dataclasses import dataclass
from typing import Literal

from tasks.shared.grading import grade
from tasks.shared.sandbox import ExecutionResult, Status
from tasks.shared.traces.dialect import Dialect, Segment, TraceFormatError
from tasks.shared.traces.observation import observe
from tasks.synthesize.execution import BlockRunner, run_blocks
from tasks.synthesize.traces import Reason, Verdict, WrittenTrace

DETAIL_CHARS = 200
# an output cut in the middle is what the model would have been shown, and the program ended well
ENDED_WELL = (Status.OK, Status.OUTPUT_CUT)


@dataclass(frozen=True, slots=True)
class Rules:
    """How traces of this recipe are written and run."""

    dialect: Dialect
    # most code blocks in a trace
    max_calls: int
    error_feedback: Literal["full", "last_line"]
    announce_remaining_calls: bool
    # whether the blocks of a trace share one session
    stateful: bool

    def feedback(self, block: int, result: ExecutionResult) -> str:
        """The text that follows block number `block` (from 0) whose execution gave `result`."""
        remaining = self.max_calls - block - 1 if self.announce_remaining_calls else None
        return self.dialect.feedback(observe(result, self.error_feedback), remaining)


def verify(written: WrittenTrace, rules: Rules, runner: BlockRunner) -> Verdict:
    """Check one trace against all rules; runs its code blocks."""
    try:
        segments = rules.dialect.split(written.trace)
    except TraceFormatError as error:
        return _rejected(Reason.BAD_FORMAT, str(error))
    if not rules.dialect.closes_with_answer(segments[-1].text):
        return _rejected(Reason.NO_ANSWER, "the trace does not close with one answer")
    codes = [segment.code for segment in segments if segment.code is not None]
    if len(codes) > rules.max_calls:
        return _rejected(
            Reason.TOO_MANY_CALLS, f"{len(codes)} code blocks where {rules.max_calls} are allowed"
        )
    results = run_blocks(codes, runner, rules.stateful) if codes else []
    reason, detail = _judge(written, segments, results, rules)
    return Verdict(
        reason,
        detail[:DETAIL_CHARS],
        tuple(result.status.value for result in results),
        tuple(result.seconds for result in results),
    )


def _rejected(reason: Reason, detail: str) -> Verdict:
    return Verdict(reason, detail[:DETAIL_CHARS], (), ())


def _judge(
    written: WrittenTrace, segments: list[Segment], results: list[ExecutionResult], rules: Rules
) -> tuple[Reason, str]:
    feedbacks = [segment.text for segment in segments if segment.is_feedback]
    for block, (recorded, result) in enumerate(zip(feedbacks, results, strict=False)):
        if result.status is Status.SANDBOX_FAILURE:
            return Reason.SANDBOX_FAILURE, f"block {block + 1}: {result.error_line}"
        real = rules.feedback(block, result)
        if recorded != real:
            return Reason.OUTPUT_DIFFERS, f"block {block + 1}: recorded {recorded!r}, really {real!r}"
    if results and results[-1].status not in ENDED_WELL:
        return Reason.LAST_BLOCK_FAILED, f"{results[-1].status.value}: {results[-1].error_line}"
    verdict = grade(segments[-1].text, written.problem.answer)
    if not verdict.correct:
        return (
            Reason.WRONG_ANSWER,
            f"{verdict.reason.value}: {verdict.predicted!r}, not {written.problem.answer!r}",
        )
    return Reason.ACCEPTED, ""
