"""Records of synthesis: a trace as its teacher wrote it, and what verification says about it."""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What the scripted teacher did wrong on purpose. For tests of verification, which never reads it."""

    NONE = ""
    WRONG_PROGRAM = "wrong_program"
    SYNTAX_ERROR = "syntax_error"
    FABRICATED_OUTPUT = "fabricated_output"
    WRONG_ANSWER = "wrong_answer"
    BROKEN_TAGS = "broken_tags"


@dataclass(frozen=True, slots=True)
class Problem:
    """A training problem, a row of the `problems` artifact."""

    id: str
    problem: str
    # reference answer
    answer: str
    source: str
    # family in the tiny world, "" elsewhere
    family: str


@dataclass(frozen=True, slots=True)
class WrittenTrace:
    """A trace before verification.

    Example: `WrittenTrace("tiny/power_mod-3f/0", problem, "Let me run ... \\boxed{88}...", Fault.NONE)`
    """

    # "<problem id>/<index among this problem's traces>"
    id: str
    problem: Problem
    # the response in the dialect, interpreter output included
    trace: str
    # side information, see `Fault`
    fault: Fault = Fault.NONE


class Reason(StrEnum):
    """Why a trace was rejected; ACCEPTED if it was not."""

    ACCEPTED = ""
    # the dialect's tags are missing, misplaced or not closed
    BAD_FORMAT = "bad_format"
    # no answer at the end, or more than one
    NO_ANSWER = "no_answer"
    # more code blocks than traces.max_calls
    TOO_MANY_CALLS = "too_many_calls"
    # the recorded interpreter output is not what the block prints
    OUTPUT_DIFFERS = "output_differs"
    # the last block fails when run, so that nothing supports the answer
    LAST_BLOCK_FAILED = "last_block_failed"
    # the boxed answer is not the reference
    WRONG_ANSWER = "wrong_answer"
    # the interpreter service failed: says nothing about the trace
    SANDBOX_FAILURE = "sandbox_failure"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification found."""

    reason: Reason
    # one line for people: the rule that was broken, the output that differed
    detail: str
    # sandbox status of each block that was run, in order
    block_status: tuple[str, ...]
    # wall seconds of each block that was run, in order
    block_seconds: tuple[float, ...]

    @property
    def accepted(self) -> bool:
        """Whether the trace may be trained on."""
        return self.reason is Reason.ACCEPTED
