"""Records of synthesis: a trace as its teacher wrote it, what verification and selection say about it, and why."""

from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """The deliberate fault of a scripted trace. For tests of verification, which never reads it."""

    NONE = ""
    WRONG_PROGRAM = "wrong_program"
    SYNTAX_ERROR = "syntax_error"
    FABRICATED_OUTPUT = "fabricated_output"
    WRONG_ANSWER = "wrong_answer"
    BROKEN_TAGS = "broken_tags"


@dataclass(frozen=True, slots=True)
class TrainingProblem:
    """A training problem, a row of the `problems` artifact."""

    id: str
    problem: str
    answer: str  # reference answer
    source: str
    family: str  # family in the tiny world, "" elsewhere
    system: str = ""  # its own system message, "" in most sets


@dataclass(frozen=True, slots=True)
class WrittenTrace:
    """A trace before verification.

    Example: `WrittenTrace("tiny/power_mod-3f/0", problem, "Let me run ... \\boxed{88}...")`
    """

    id: str  # "<problem id>/<index among this problem's traces>"
    problem: TrainingProblem
    trace: str  # the response in the dialect, interpreter output included
    fault: Fault = Fault.NONE  # see `Fault`
    teacher: str = "script"  # its author: "script", or the name of a model
    prompt_digest: str = ""  # sha256 of the teacher's prompt, as hex; "" if there was none
    # why there is no complete trace: NO_RESPONSE, or SANDBOX_FAILURE while the teacher waited for output
    loss: "Verdict | None" = None


class Step(StrEnum):
    """The steps of verification and selection, in their order."""

    TEACHER = "teacher"
    FORMAT = "format"
    EXECUTION = "execution"
    OUTPUT = "output"
    ANSWER = "answer"
    QUALITY = "quality"
    DUPLICATES = "duplicates"
    CONTAMINATION = "contamination"
    DIFFICULTY = "difficulty"
    BALANCE = "balance"


class Reason(StrEnum):
    """Why a trace was rejected; ACCEPTED if it was not. In the order of the steps, see `REASONS_OF`."""

    ACCEPTED = ""
    NO_RESPONSE = "no_response"  # the teacher gave no usable response
    BAD_FORMAT = "bad_format"  # the dialect's tags are missing, misplaced or not closed
    NO_ANSWER = "no_answer"  # no answer at the end, or more than one
    TOO_MANY_CALLS = "too_many_calls"  # more code blocks than traces.max_calls
    SANDBOX_FAILURE = "sandbox_failure"  # the interpreter service failed, which says nothing about the trace
    TIMED_OUT = "timed_out"  # a block with recorded output does not end, even alone and with more time
    OUTPUT_DIFFERS = "output_differs"  # the recorded interpreter output is not what the block prints
    CONTRADICTED = "contradicted"  # the text builds on a recorded output that the true one replaced
    LAST_BLOCK_FAILED = "last_block_failed"  # the last block fails, so that nothing supports the answer
    WRONG_ANSWER = "wrong_answer"  # the boxed answer is not the reference
    NO_CODE = "no_code"  # no block ran before the answer
    ANSWER_BEFORE_CODE = "answer_before_code"  # the answer precedes the first block: the code decides nothing
    TRIVIAL_CODE = "trivial_code"  # no block computes more than one does by hand
    REPEATED_BLOCK = "repeated_block"  # one program runs twice
    TOO_LONG = "too_long"
    OTHER_SCRIPT = "other_script"  # not in the Latin script
    VOTED_OUT = "voted_out"  # the judge finds the code neither new nor significant
    NEAR_DUPLICATE = "near_duplicate"  # similar to a trace that was kept
    CONTAMINATED = "contaminated"  # shares an n-gram with an evaluation problem
    TOO_EASY = "too_easy"  # the given model always solves the problem
    TOO_HARD = "too_hard"  # the given model never solves the problem
    UNRATED = "unrated"  # the given model has no sample of the problem
    SURPLUS = "surplus"  # sound, but there are enough of its source and number of calls


REASONS_OF: dict[Step, tuple[Reason, ...]] = {
    Step.TEACHER: (Reason.NO_RESPONSE,),
    Step.FORMAT: (Reason.BAD_FORMAT, Reason.NO_ANSWER, Reason.TOO_MANY_CALLS),
    Step.EXECUTION: (Reason.SANDBOX_FAILURE, Reason.TIMED_OUT),
    Step.OUTPUT: (Reason.OUTPUT_DIFFERS, Reason.CONTRADICTED),
    Step.ANSWER: (Reason.LAST_BLOCK_FAILED, Reason.WRONG_ANSWER),
    Step.QUALITY: (
        *(Reason.NO_CODE, Reason.ANSWER_BEFORE_CODE, Reason.TRIVIAL_CODE, Reason.REPEATED_BLOCK),
        *(Reason.TOO_LONG, Reason.OTHER_SCRIPT, Reason.VOTED_OUT),
    ),
    Step.DUPLICATES: (Reason.NEAR_DUPLICATE,),
    Step.CONTAMINATION: (Reason.CONTAMINATED,),
    Step.DIFFICULTY: (Reason.TOO_EASY, Reason.TOO_HARD, Reason.UNRATED),
    Step.BALANCE: (Reason.SURPLUS,),
}


@dataclass(frozen=True, slots=True)
class Scores:
    """The measurements of the filters on a trace; None if a filter did not run."""

    code_work: int | None = None  # the most that one block computes, see `code_work`
    latin_share: float | None = None  # share of Latin letters among the letters outside code and its output
    pass_rate: float | None = None  # share of the given model's samples that solve the problem
    novelty: float | None = None  # shares of the judge's votes
    significance: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of verification, and of selection after it."""

    reason: Reason
    detail: str  # one line for people: the broken rule, the differing output
    block_status: tuple[str, ...]  # sandbox status of each block that was run, in order
    block_seconds: tuple[float, ...]  # wall seconds of each block that was run, in order
    trace: str = ""  # the trace to train on: as written, or with the true outputs in place
    num_replaced: int = 0  # blocks whose recorded output was replaced by the true one
    scores: Scores = field(default_factory=Scores)

    @property
    def accepted(self) -> bool:
        """Whether the trace may be trained on."""
        return self.reason is Reason.ACCEPTED


Checked = tuple[WrittenTrace, Verdict]  # a trace and its verdict so far
