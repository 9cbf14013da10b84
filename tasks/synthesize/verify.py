"""Verify a written trace: format, every block executed again, recorded output, last block, answer.

The rules run in that order and the first that fails gives the reason. Nothing here knows which teacher wrote the
trace or whether it erred on purpose. A block that times out where the trace says otherwise is not judged under load:
`settle` runs such traces again, one at a time and with more time, so that equal traces get equal verdicts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from tasks.shared.config.selection import VerificationConfig
from tasks.shared.grading import grade
from tasks.shared.sandbox import ExecutionResult, Limits, Status
from tasks.shared.tools.interpreter import limits_of
from tasks.shared.tools.protocol import Tool
from tasks.shared.traces.call_forms import Block
from tasks.shared.traces.dialect import Dialect, Segment, TraceFormatError, dialect_of
from tasks.shared.traces.observation import STOPPED, observe
from tasks.shared.traces.own_words import own_words
from tasks.synthesize.execution import run_blocks
from tasks.synthesize.recorded import agree, contradiction
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.traces import Checked, Reason, Verdict, WrittenTrace

DETAIL_CHARS = 200
# an output cut in the middle is what the model would have been shown, and the program ended well
ENDED_WELL = (Status.OK, Status.OUTPUT_CUT)
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
    block_notices: bool = True  # a block that is not whole is answered by a notice, as in a rollout

    @classmethod
    def of(cls, config: SynthesizeStage) -> Self:
        """The rules that a recipe states."""
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
        """The text that follows call number `call` (from 0), a block whose execution gave `result`."""
        return self._told(call, observe(result, self.error_feedback))

    def notice(self, call: int, block: Block) -> str:
        """The text that follows call number `call`, a block that is not whole."""
        return self._told(call, self.dialect.notice(block))

    def _told(self, call: int, observation: str) -> str:
        remaining = self.max_calls - call - 1 if self.announce_remaining_calls else None
        return self.dialect.feedback(observation, remaining)

    def patient_limits(self, feedbacks: Sequence[Segment]) -> list[Limits | None]:
        """More time for each block but those of which the trace itself says that they time out."""
        patience = self.verification.patience
        longer = replace(
            self.limits, wall_s=patience * self.limits.wall_s, cpu_s=patience * self.limits.cpu_s
        )
        return [None if STOPPED[Status.TIMEOUT] in feedback.text else longer for feedback in feedbacks]


def verify(written: WrittenTrace, rules: Rules, runner: Tool, patient: bool = False) -> Verdict:
    """Check one trace against all rules; runs its code blocks.

    `patient`: nothing else runs, and blocks have more time. Without it TIMED_OUT is to be settled, see `settle`.
    """
    try:
        segments = rules.dialect.split(written.trace)
    except TraceFormatError as error:
        return _rejected(written, Reason.BAD_FORMAT, str(error))
    if not rules.dialect.closes_with_answer(segments[-1].text):
        return _rejected(written, Reason.NO_ANSWER, "the trace does not close with one answer")
    num_calls = len(segments) // 2
    if num_calls > rules.max_calls:
        return _rejected(
            written, Reason.TOO_MANY_CALLS, f"{num_calls} code blocks where {rules.max_calls} are allowed"
        )
    if fault := _broken_block(segments, rules):
        return _rejected(written, Reason.BAD_FORMAT, fault)
    codes = [segment.code for segment in segments if segment.code is not None]
    outputs = [segments[place + 1] for place, segment in enumerate(segments) if segment.code is not None]
    limits = rules.patient_limits(outputs) if patient else ()
    results = run_blocks(codes, runner, rules.stateful, limits) if codes else []
    return _judge(_Run(written, segments, results, rules))


def settle(checked: Sequence[Checked], rules: Rules, runner: Tool) -> list[Checked]:
    """Verify the traces again that timed out, one at a time: call it when nothing else runs.

    On a busy machine a right block can time out; which one does would be chance.
    """
    return [
        (written, verify(written, rules, runner, patient=True))
        if verdict.reason is Reason.TIMED_OUT
        else (written, verdict)
        for written, verdict in checked
    ]


def _broken_block(segments: Sequence[Segment], rules: Rules) -> str:
    """What is wrong with the first block that is not whole and not answered by its notice; "" if there is none."""
    for place, segment in enumerate(segments):
        if segment.block is None or not segment.block.fault:
            continue
        if not rules.block_notices or segments[place + 1].text != rules.notice(place // 2, segment.block):
            return f"block {place // 2 + 1} is not whole, yet it has output: {segment.block.fault}"
    return ""


def _rejected(written: WrittenTrace, reason: Reason, detail: str) -> Verdict:
    return Verdict(reason, detail[:DETAIL_CHARS], (), (), written.trace)


@dataclass(frozen=True, slots=True)
class _Run:
    """A trace whose blocks were executed."""

    written: WrittenTrace
    segments: Sequence[Segment]  # own words and feedback in turn
    results: Sequence[ExecutionResult]  # of each block; fewer if the sandbox failed
    rules: Rules

    def compared(self) -> Iterator[tuple[int, str, str, ExecutionResult]]:
        """Each block that ran: the number of its call, the recorded and the real feedback, its result."""
        executed = [place // 2 for place, segment in enumerate(self.segments) if segment.code is not None]
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
    """Outages and unexpected time-outs, after which there is nothing to compare."""
    if run.results and run.results[-1].status is Status.SANDBOX_FAILURE:
        return Reason.SANDBOX_FAILURE, f"block {len(run.results)}: {run.results[-1].error_line}"
    for block, recorded, real, result in run.compared():
        if result.status is Status.TIMEOUT and recorded != real:
            return Reason.TIMED_OUT, f"block {block + 1}: recorded {recorded!r}, really it does not end"
    return None


def _outputs(run: _Run) -> tuple[Finding | None, str, int]:
    """Recorded against real output; the trace to go on with, and in how many places the true output was put."""
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
    """The last block ends well, and the boxed answer is the reference."""
    if run.results and run.results[-1].status not in ENDED_WELL:
        return (
            Reason.LAST_BLOCK_FAILED,
            f"{run.results[-1].status.value}: {run.results[-1].error_line}",
        )
    reference = run.written.problem.answer
    words = own_words(segment.text for segment in run.segments if not segment.is_feedback)
    graded = grade(words, reference)
    if not graded.correct:
        return Reason.WRONG_ANSWER, f"{graded.reason.value}: {graded.predicted!r}, not {reference!r}"
    return None
