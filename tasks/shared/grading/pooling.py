"""Which answers say the same: for votes, where equal wrong answers in other spellings are one answer."""

from collections.abc import Sequence

from tasks.shared.grading.equivalence import MAX_CHARS, Verdict, shared_equivalence
from tasks.shared.grading.integers import read_integer
from tasks.shared.grading.notation import clean


def pooled(answers: Sequence[str]) -> list[str]:
    """For each answer the first of those equal to it. Integers cost nothing; others are compared in the worker.

    An answer that cannot be compared in time stands for itself, so a hostile one costs one comparison, not one with
    every other.
    """
    found: dict[str, str] = {}  # one spelling of an answer -> the answer that stands for it
    symbolic: list[str] = []  # representatives that are no integers
    for answer in answers:
        key = _spelling(answer)
        if key in found:
            continue
        found[key] = (
            answer if key.startswith("integer ") else _stands_for(answer, [*symbolic, *_integers(found)])
        )
        if found[key] == answer and not key.startswith("integer "):
            symbolic.append(answer)
    return [found[_spelling(answer)] for answer in answers]


def _spelling(answer: str) -> str:
    number = read_integer(answer)
    if number is not None:
        return f"integer {number}"
    return clean(answer) if len(answer) <= MAX_CHARS else answer


def _integers(found: dict[str, str]) -> list[str]:
    return [answer for key, answer in found.items() if key.startswith("integer ")]


def _stands_for(answer: str, others: Sequence[str]) -> str:
    equivalence = shared_equivalence()
    for other in others:
        verdict = equivalence.compare(answer, other)
        if verdict is Verdict.EQUAL:
            return other
        if verdict is Verdict.UNDECIDED:
            break
    return answer
