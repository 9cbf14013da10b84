"""Records of synthesis: a trace as its teacher wrote it, what verification and selection say about it, and why."""

from dataclasses import dataclass, field
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
    fault: Fault = Fault.NONE  # side information, see `Fault`
    teacher: str = "script"  # who wrote it: "script", or the name of a model
    # sha256 of the prompt that the teacher was given, as hex; "" where there was none
    prompt_digest: str = ""
    # where the teacher gave no whole trace: why (NO_RESPONSE, or SANDBOX_FAILURE while it waited for output)
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
    """Why a trace was rejected; ACCEPTED if it was not. Listed in the order of the steps, see `STEP_OF`."""

    ACCEPTED = ""
    # the teacher was asked, and gave nothing that can be used
    NO_RESPONSE = "no_response"
    # the dialect's tags are missing, misplaced or not closed
    BAD_FORMAT = "bad_format"
    # no answer at the end, or more than one
    NO_ANSWER = "no_answer"
    # more code blocks than traces.max_calls
    TOO_MANY_CALLS = "too_many_calls"
    # the interpreter service failed: says nothing about the trace
    SANDBOX_FAILURE = "sandbox_failure"
    # a block that is said to end does not, not even alone and with more time
    TIMED_OUT = "timed_out"
    # the recorded interpreter output is not what the block prints
    OUTPUT_DIFFERS = "output_differs"
    # the true output was put in place, and what follows builds on the one that was there
    CONTRADICTED = "contradicted"
    # the last block fails when run, so that nothing supports the answer
    LAST_BLOCK_FAILED = "last_block_failed"
    # the boxed answer is not the reference
    WRONG_ANSWER = "wrong_answer"
    # no block ran before the answer
    NO_CODE = "no_code"
    # the answer is stated before the first block: the code decides nothing
    ANSWER_BEFORE_CODE = "answer_before_code"
    # no block computes more than one would do by hand
    TRIVIAL_CODE = "trivial_code"
    # the same program twice
    REPEATED_BLOCK = "repeated_block"
    TOO_LONG = "too_long"
    # not written in the Latin script
    OTHER_SCRIPT = "other_script"
    # the judge finds the code neither new nor significant
    VOTED_OUT = "voted_out"
    # much like a trace that was kept
    NEAR_DUPLICATE = "near_duplicate"
    # shares an n-gram with an evaluation problem
    CONTAMINATED = "contaminated"
    # the given model always, never, or in no known share solves the problem
    TOO_EASY = "too_easy"
    TOO_HARD = "too_hard"
    UNRATED = "unrated"
    # sound, but its source and number of calls have their share
    SURPLUS = "surplus"


STEP_OF: dict[Reason, Step] = {
    Reason.NO_RESPONSE: Step.TEACHER,
    Reason.BAD_FORMAT: Step.FORMAT,
    Reason.NO_ANSWER: Step.FORMAT,
    Reason.TOO_MANY_CALLS: Step.FORMAT,
    Reason.SANDBOX_FAILURE: Step.EXECUTION,
    Reason.TIMED_OUT: Step.EXECUTION,
    Reason.OUTPUT_DIFFERS: Step.OUTPUT,
    Reason.CONTRADICTED: Step.OUTPUT,
    Reason.LAST_BLOCK_FAILED: Step.ANSWER,
    Reason.WRONG_ANSWER: Step.ANSWER,
    Reason.NO_CODE: Step.QUALITY,
    Reason.ANSWER_BEFORE_CODE: Step.QUALITY,
    Reason.TRIVIAL_CODE: Step.QUALITY,
    Reason.REPEATED_BLOCK: Step.QUALITY,
    Reason.TOO_LONG: Step.QUALITY,
    Reason.OTHER_SCRIPT: Step.QUALITY,
    Reason.VOTED_OUT: Step.QUALITY,
    Reason.NEAR_DUPLICATE: Step.DUPLICATES,
    Reason.CONTAMINATED: Step.CONTAMINATION,
    Reason.TOO_EASY: Step.DIFFICULTY,
    Reason.TOO_HARD: Step.DIFFICULTY,
    Reason.UNRATED: Step.DIFFICULTY,
    Reason.SURPLUS: Step.BALANCE,
}


@dataclass(frozen=True, slots=True)
class Scores:
    """What the filters measured on a trace; None where a filter did not run."""

    code_work: int | None = None  # the most that one block computes, see `code_work`
    latin_share: float | None = None  # share of Latin letters among the letters outside code and its output
    pass_rate: float | None = None  # share of the given model's samples that solve the problem
    novelty: float | None = None  # shares of the judge's votes
    significance: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification found, and selection after it."""

    reason: Reason
    detail: str  # one line for people: the rule that was broken, the output that differed
    block_status: tuple[str, ...]  # sandbox status of each block that was run, in order
    block_seconds: tuple[float, ...]  # wall seconds of each block that was run, in order
    trace: str = ""  # the trace to train on: as written, or with the true outputs in place
    num_replaced: int = 0  # blocks whose recorded output was replaced by the true one
    scores: Scores = field(default_factory=Scores)

    @property
    def accepted(self) -> bool:
        """Whether the trace may be trained on."""
        return self.reason is Reason.ACCEPTED


# a trace with what is known of it by now
Checked = tuple[WrittenTrace, Verdict]
