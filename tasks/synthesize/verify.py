"""Verifies a written trace: format, every block executed again, recorded output, last block, answer.

The rules run in that order, and the first that fails gives the reason. They know neither the teacher nor its deliberate
faults. A block that unexpectedly times out is not judged under load: `settle` runs its trace again, one trace at a time
and with more time, so that equal traces get equal verdicts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, Self

from tasks.shared.grading import grade
from tasks.shared.sandbox import ExecutionResult, Limits, Status
from tasks.shared.tools.interpreter import limits_of
from tasks.shared.tools.protocol import Tool
from tasks.shared.traces.call_forms import Block
from tasks.shared.traces.dialect import Dialect, Segment, TraceFormatError, dialect_of
from tasks.shared.traces.observation import STOPPED, SUCCEEDED, observe
from tasks.shared.traces.own_words import own_words
from tasks.synthesize.execution import run_blocks
from tasks.synthesize.recorded import agree, contradiction
from tasks.synthesize.selection.config import VerificationConfig
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.traces import Checked, Reason, Verdict, WrittenTrace

DETAIL_CHARS = 200
Finding = tuple[Reason, str]


@dataclass(frozen=True, slots=True)
class Rules:
    """How traces of this recipe are written and run."""

    dialect: Dialect
    max_calls: int  # most code blocks in a trace
    error_feedback: Literal["full", "last_line"]
    announce_remaining_calls: bool
    stateful: bool  # whether the blocks of a trace share one session
    limits: Limits = field(default_factory=Limits)  # of one block
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    block_notices: bool = True  # whether an incomplete block is answered by a notice, as in a rollout

    @classmethod
    def of(cls, config: SynthesizeStage) -> Self:
        """The rules of a recipe."""
        traces = config.traces
        return cls(
            dialect_of(traces, config.sandbox.preload),
            traces.max_calls,
            traces.error_feedback,
            traces.announce_remaining_calls,
            config.sandbox.stateful,
            limits_of(config.sandbox),
            config.synthesize.verification,
            traces.block_notices,
        )

    def feedback(self, call: int, result: ExecutionResult) -> str:
        """The feedback after call number `call` (from 0), a block whose execution gave `result`."""
        return self._after(call, observe(result, self.error_feedback))

    def notice(self, call: int, block: Block) -> str:
        """The feedback after call number `call`, an incomplete block."""
        return self._after(call, self.dialect.notice(block))

    def _after(self, call: int, observation: str) -> str:
        remaining = self.max_calls - call - 1 if self.announce_remaining_calls else None
        return self.dialect.feedback(observation, remaining)

    def patient_limits(self, feedbacks: Sequence[Segment]) -> list[Limits | None]:
        """More time for each block, except those whose recorded output is a time-out."""
        patience, limits = self.verification.patience, self.limits
        longer = replace(limits, wall_s=patience * limits.wall_s, cpu_s=patience * limits.cpu_s)
        return [None if STOPPED[Status.TIMEOUT] in feedback.text else longer for feedback in feedbacks]


def verify(written: WrittenTrace, rules: Rules, runner: Tool, patient: bool = False) -> Verdict:
    """Check one trace against all rules; runs its code blocks.

    `patient`: blocks have more time; no other trace may run. Otherwise TIMED_OUT is provisional, see `settle`.
    """
    try:
        segments = rules.dialect.split(written.trace)
    except TraceFormatError as error:
        return _rejected(written, Reason.BAD_FORMAT, str(error))
    if not rules.dialect.closes_with_answer(segments[-1].text):
        return _rejected(written, Reason.NO_ANSWER, "the trace does not close with one answer")
    num_calls = len(segments) // 2
    if num_calls > rules.max_calls:
        detail = f"{num_calls} code blocks where {rules.max_calls} are allowed"
        return _rejected(written, Reason.TOO_MANY_CALLS, detail)
    if fault := _broken_block(segments, rules):
        return _rejected(written, Reason.BAD_FORMAT, fault)
    blocks = [(segment.code, output) for segment, output in pairwise(segments) if segment.code is not None]
    limits = rules.patient_limits([output for _, output in blocks]) if patient else ()
    results = run_blocks([code for code, _ in blocks], runner, rules.stateful, limits) if blocks else []
    return _judge(_Run(written, segments, results, rules))


def settle(checked: Sequence[Checked], rules: Rules, runner: Tool) -> list[Checked]:
    """Verify again the traces that timed out, one at a time; call it when nothing else runs.

    On a busy machine a correct block can time out, and chance decides which one.
    """
    return [
        (written, verify(written, rules, runner, patient=True))
        if verdict.reason is Reason.TIMED_OUT
        else (written, verdict)
        for written, verdict in checked
    ]


def _broken_block(segments: Sequence[Segment], rules: Rules) -> str:
    """The fault of the first incomplete block that is not answered by its notice; "" if there is none."""
    for call, (segment, answer) in enumerate(zip(segments[::2], segments[1::2], strict=False)):
        if segment.block is None or not segment.block.fault:
            continue
        if not rules.block_notices or answer.text != rules.notice(call, segment.block):
            return f"block {call + 1} is not whole, yet it has output: {segment.block.fault}"
    return ""


def _rejected(written: WrittenTrace, reason: Reason, detail: str) -> Verdict:
    return Verdict(reason, detail[:DETAIL_CHARS], (), (), written.trace)


@dataclass(frozen=True, slots=True)
class _Run:
    """A trace whose blocks were executed."""

    written: WrittenTrace
    segments: Sequence[Segment]  # own words and feedback alternate
    results: Sequence[ExecutionResult]  # of each block; fewer if the sandbox failed
    rules: Rules

    def compared(self) -> Iterator[tuple[int, str, str, ExecutionResult]]:
        """Each executed block: the number of its call, the recorded and the real feedback, its result."""
        executed = [call for call, segment in enumerate(self.segments[::2]) if segment.code is not None]
        for call, result in zip(executed, self.results, strict=False):  # an outage ends the results early
            yield call, self.segments[2 * call + 1].text, self.rules.feedback(call, result), result


def _judge(run: _Run) -> Verdict:
    found, trace, num_replaced = _execution(run), run.written.trace, 0
    if found is None:
        found, trace, num_replaced = _outputs(run)
    reason, detail = found or _answer(run) or (Reason.ACCEPTED, "")
    return Verdict(
        reason,
        detail[:DETAIL_CHARS],
        tuple(result.status.value for result in run.results),
        tuple(result.seconds for result in run.results),
        trace,
        num_replaced,
    )


def _execution(run: _Run) -> Finding | None:
    """An outage or an unexpected time-out, after which there is nothing to compare."""
    if run.results and run.results[-1].status is Status.SANDBOX_FAILURE:
        return Reason.SANDBOX_FAILURE, f"block {len(run.results)}: {run.results[-1].error_line}"
    for block, recorded, real, result in run.compared():
        if result.status is Status.TIMEOUT and recorded != real:
            return Reason.TIMED_OUT, f"block {block + 1}: recorded {recorded!r}, really it does not end"
    return None


def _outputs(run: _Run) -> tuple[Finding | None, str, int]:
    """Compare recorded with real output; returns also the trace to use and its number of replaced outputs."""
    verification = run.rules.verification
    texts, num_replaced = [segment.text for segment in run.segments], 0
    for block, recorded, real, _ in run.compared():
        if agree(recorded, real, verification.float_tolerance):
            continue
        detail = f"block {block + 1}: recorded {recorded!r}, really {real!r}"
        if verification.recorded_output == "compare":
            return (Reason.OUTPUT_DIFFERS, detail), run.written.trace, 0
        place = 2 * block + 1
        before = "\n".join([run.written.problem.problem, *texts[:place]])
        if used := contradiction(recorded, real, before, "\n".join(texts[place + 1 :: 2])):
            return (Reason.CONTRADICTED, f"{used} after {detail}"), run.written.trace, 0
        texts[place] = real
        num_replaced += 1
    return None, "".join(texts), num_replaced


def _answer(run: _Run) -> Finding | None:
    """Check that the last block succeeds, and that the boxed answer is the reference."""
    if run.results and run.results[-1].status not in SUCCEEDED:
        last = run.results[-1]
        return Reason.LAST_BLOCK_FAILED, f"{last.status.value}: {last.error_line}"
    reference = run.written.problem.answer
    words = own_words(segment.text for segment in run.segments if not segment.is_feedback)
    graded = grade(words, reference)
    if not graded.correct:
        return Reason.WRONG_ANSWER, f"{graded.reason.value}: {graded.predicted!r}, not {reference!r}"
    return None
