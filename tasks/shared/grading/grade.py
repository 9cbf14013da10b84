r"""Grade a response: the content of its last whole `\boxed` against the reference, with a reason for every verdict.

Plain integers are compared here; everything else (`equality.py`) goes to a worker process (`equivalence.py`), because a
computer algebra system fed by a model can run for ever (`9^{9^{9^9}}`) and a signal cannot stop it, least of all off
the main thread. Safe to call from any thread.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from tasks.shared.grading.box import last_box
from tasks.shared.grading.equivalence import Verdict, shared_equivalence
from tasks.shared.grading.integers import read_integer

INTEGER = re.compile(r"[+-]?[0-9]{1,400}")


class GradeReason(StrEnum):
    """Why a response got its grade."""

    CORRECT = "correct"
    WRONG = "wrong"  # a box whose content is not equivalent to the reference
    NO_BOX = "no_box"  # words, but no box
    NO_ANSWER = "no_answer"  # an empty response, or a box that is empty or never closed
    TRUNCATED = "truncated"  # out of tokens before a box was closed
    GRADING_ERROR = "grading_error"  # not comparable: too long, or out of time or memory


REASON_OF = {
    Verdict.EQUAL: GradeReason.CORRECT,
    Verdict.DIFFERENT: GradeReason.WRONG,
    Verdict.UNDECIDED: GradeReason.GRADING_ERROR,
}


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one response. Example: `Grade(True, GradeReason.CORRECT, "042")`."""

    correct: bool
    reason: GradeReason
    predicted: str | None  # the content of the last box as written; None without a closed, filled box


def grade(text: str, reference: str, truncated: bool = False, integer: bool = False) -> Grade:
    r"""The grade of `text` against `reference` (an integer such as "70" or LaTeX such as "\frac{1}{2}").

    `truncated`: generation ran out of tokens, which explains a missing box. `integer`: the answer must be an integer
    literal; no expression is evaluated. Otherwise values are compared: exact ones exactly, decimals to six digits or a
    millionth. A unit or a name that only one side gives is ignored, and 50\% is 50 or one half.
    Raises ValueError if `reference` is empty.
    """
    if not reference.strip():
        raise ValueError("grading: the reference answer is empty; give the problem an answer")
    predicted = last_box(text)
    if not predicted:
        no_box = predicted is None and bool(text.strip())
        unanswered = GradeReason.NO_BOX if no_box else GradeReason.NO_ANSWER
        return Grade(False, GradeReason.TRUNCATED if truncated else unanswered, None)
    verdict = _compare(predicted, reference.strip(), integer)
    return Grade(verdict is Verdict.EQUAL, REASON_OF[verdict], predicted)


def _compare(predicted: str, expected: str, integer: bool) -> Verdict:
    if predicted == expected:
        return Verdict.EQUAL
    if integer or INTEGER.fullmatch(expected):
        number = read_integer(predicted)
        if number is not None and number == read_integer(expected):
            return Verdict.EQUAL
        if integer or INTEGER.fullmatch(predicted):
            return Verdict.DIFFERENT
    return shared_equivalence().compare(predicted, expected)
