"""Grading held against more than 300 pairs of expressions with known equality."""

from collections.abc import Callable

import pytest

from tasks.shared.grading import GradeReason, grade
from tests.unit.grading import pairs
from tests.unit.grading.fifth_round import PAIRS
from tests.unit.grading.forms import FORMS

FAMILIES: dict[str, Callable[[], list[pairs.Pair]]] = {
    "integers": pairs.integers,
    "fractions": pairs.fractions,
    "surds": pairs.surds,
    "polynomials": pairs.polynomials,
    "collections": pairs.collections,
    "by_hand": lambda: pairs.BY_HAND,
    "fifth_round": lambda: PAIRS,
} | {kind: lambda kind=kind: FORMS[kind] for kind in FORMS}


def test_there_are_enough_pairs_of_both_kinds() -> None:
    """No pair twice, neither kind rare."""
    every = [pair for family in FAMILIES.values() for pair in family()]
    assert len(set(every)) == len(every) >= 1500
    assert 0.3 < sum(equal for _, _, equal in every) / len(every) < 0.7


@pytest.mark.parametrize("family", FAMILIES)
def test_verdicts(family: str) -> None:
    """The grade of every pair is its known equality, and the reason says so."""
    mistakes = []
    for predicted, reference, equal in FAMILIES[family]():
        result = grade(f"so we get \\boxed{{{predicted}}} at last", reference)
        if result.correct != equal or result.reason not in (GradeReason.CORRECT, GradeReason.WRONG):
            mistakes.append((predicted, reference, equal, result.reason.value))
    assert mistakes == []
