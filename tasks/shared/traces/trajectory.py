"""The central record: training uses exactly the ids that were sampled.

Ids, mask and log-probs of a response are arrays of the standard library (int32, int8, float32). They take 9 bytes a
token in memory and between ranks; tuples of Python numbers took 80 and 14.

A `TrajectoryBuilder` appends ids once, and fixes their `loss_mask` and log-probabilities at that moment. No later
step converts to text and back, so mask, ids and log-probs always match.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a trajectory ended."""

    EOS = "eos"  # the model closed its turn
    LENGTH = "length"  # the token budget of the whole response is used up
    # the interpreter service failed: no error of the model, not trained on
    SANDBOX_FAILURE = "sandbox_failure"


NOTICE = "notice"  # status of a call with an incomplete block: not run, answered with the correct form
RAN = frozenset({"ok", "output_cut"})  # sandbox statuses of a program that reached its end without an error


@dataclass(frozen=True, slots=True)
class CodeCall:
    """One code block that was executed, or answered by a notice, with its place in the response.

    Example: response ids 0..39 end in a block; its feedback is ids 40..51: `turn_end=40, feedback_end=52`.
    """

    code: str  # exactly as the model wrote it and as it ran; "" for an incomplete block
    status: str  # a sandbox Status value, or NOTICE
    observation: str  # the output shown to the model
    seconds: float  # wall time in the interpreter
    turn_end: int  # response ids [.., turn_end) precede the execution
    feedback_end: int  # response ids [turn_end, feedback_end) are the interpreter's

    @property
    def executed(self) -> bool:
        """Whether the sandbox ran it."""
        return self.status != NOTICE

    @property
    def ran(self) -> bool:
        """Whether the program reached its end, whatever it printed."""
        return self.status in RAN


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sampled response with live code. Lengths: R response tokens, P prompt tokens. Its arrays never change."""

    problem_id: str
    sample: int  # index among the samples of this problem
    prompt_ids: tuple[int, ...]  # (P,)
    response_ids: Sequence[int]  # (R,) sampled and interpreter tokens in order
    loss_mask: Sequence[int]  # (R,) 1 where the policy chose the token, else 0; published as `sampled`
    logprobs: Sequence[float]  # (R,) the sampler's log-prob where sampled, 0.0 elsewhere; float32
    calls: tuple[CodeCall, ...]
    finish: FinishReason
    text: str  # the decoded response, for people; never tokenised again
    own_words: str  # the model's words in all turns, without programs and outputs: the graded text
    # [start, end) in characters of `text` that the feedback of each call takes, in order
    shown: tuple[tuple[int, int], ...] = ()
    unrecognised: int = 0  # malformed blocks: the dialect cannot read them
    self_written: int = 0  # feedback tags that the model wrote itself
    wrote_code: bool = False  # a whole block, run or not
    # (weight version, sampled tokens) in order; empty for an engine without versions
    versions: tuple[tuple[int, int], ...] = ()

    @property
    def oldest_version(self) -> int | None:
        """Version of the first weights that sampled; None for an engine without versions."""
        return min((version for version, _ in self.versions), default=None)

    @property
    def num_sampled(self) -> int:
        """Tokens the policy chose."""
        return sum(self.loss_mask)

    @property
    def has_code(self) -> bool:
        """Whether a whole block was written, run or not."""
        return self.wrote_code or self.has_run_code

    @property
    def has_run_code(self) -> bool:
        """Whether a block was executed."""
        return any(call.executed for call in self.calls)


def turns_between(text: str, shown: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """The model's text before, between and after its feedbacks: one piece more than there are spans."""
    starts = [0, *(end for _, end in shown)]
    ends = [*(start for start, _ in shown), len(text)]
    return tuple(text[start:end] for start, end in zip(starts, ends, strict=True))


@dataclass(slots=True)
class TrajectoryBuilder:
    """A trajectory while it grows. Ids are only ever appended: those of turn t are a prefix of those of turn t+1."""

    problem_id: str
    sample: int
    prompt_ids: tuple[int, ...]
    response_ids: list[int] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    calls: list[CodeCall] = field(default_factory=list)
    versions: list[tuple[int, int]] = field(default_factory=list)

    def append_sampled(
        self, ids: Sequence[int], logprobs: Sequence[float], versions: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Append sampled tokens, the sampler's log-prob of each, and the weight versions that sampled them."""
        assert len(ids) == len(logprobs), (len(ids), len(logprobs))
        assert not versions or sum(count for _, count in versions) == len(ids), (versions, len(ids))
        for version, count in versions:
            if self.versions and self.versions[-1][0] == version:
                count += self.versions.pop()[1]
            self.versions.append((version, count))
        self.response_ids += ids
        self.loss_mask += [True] * len(ids)
        self.logprobs += logprobs

    @property
    def turn_ids(self) -> list[int]:
        """Ids sampled since the last feedback."""
        return self.response_ids[self.calls[-1].feedback_end if self.calls else 0 :]

    def append_feedback(self, ids: Sequence[int], call: CodeCall) -> None:
        """Append interpreter tokens after a code block: in the context, never in the loss."""
        assert call.turn_end == len(self.response_ids), (call.turn_end, len(self.response_ids))
        assert call.feedback_end == call.turn_end + len(ids), (call.feedback_end, call.turn_end, len(ids))
        self.response_ids += ids
        self.loss_mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)
        self.calls.append(call)

    def finish(self, reason: FinishReason, text: str, own_words: str) -> Trajectory:
        """Return the frozen record after checking the invariants that training relies on."""
        assert len(self.loss_mask) == len(self.logprobs) == len(self.response_ids)
        for call in self.calls:
            in_loss = any(self.loss_mask[call.turn_end : call.feedback_end])
            assert not in_loss, "interpreter tokens marked as sampled"
        pairs = zip(self.loss_mask, self.logprobs, strict=True)
        assert all(in_loss or not logprob for in_loss, logprob in pairs), (
            "a log-prob on a token that was not sampled"
        )
        return Trajectory(
            self.problem_id,
            self.sample,
            self.prompt_ids,
            array("i", self.response_ids),
            array("b", self.loss_mask),
            array("f", self.logprobs),
            tuple(self.calls),
            reason,
            text,
            own_words,
            versions=tuple(self.versions),
        )
