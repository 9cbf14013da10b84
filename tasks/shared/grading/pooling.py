"""Which answers are equal: a vote counts equal wrong answers in different spellings as one answer."""

from collections.abc import Iterable, Sequence

from tasks.shared.grading.equivalence import MAX_CHARS, Verdict, shared_equivalence
from tasks.shared.grading.integers import read_integer
from tasks.shared.grading.notation import clean


def pooled(answers: Sequence[str]) -> list[str]:
    """For each answer the first of those equal to it. Integers cost nothing; others are compared in the worker.

    An answer whose comparison runs out of time or memory stands for itself and is compared no further. So a hostile
    answer costs one comparison, not one with every other answer.
    """
    representatives: dict[int | str, str] = {}  # an integer, or the spelling of another answer
    for answer in answers:
        key = _key(answer)
        if key not in representatives:
            integers_last = sorted(representatives, key=lambda known: isinstance(known, int))
            others = dict.fromkeys(representatives[known] for known in integers_last)
            representatives[key] = answer if isinstance(key, int) else _first_equal(answer, others)
    return [representatives[_key(answer)] for answer in answers]


def _key(answer: str) -> int | str:
    number = read_integer(answer)
    if number is not None:
        return number
    return clean(answer) if len(answer) <= MAX_CHARS else answer


def _first_equal(answer: str, others: Iterable[str]) -> str:
    for other in others:
        verdict = shared_equivalence().compare(answer, other)
        if verdict is Verdict.EQUAL:
            return other
        if verdict is Verdict.UNDECIDED:
            break
    return answer
