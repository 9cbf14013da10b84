"""Votes: equal answers in other notations are one answer, right or wrong; incomparable ones are their own."""

from tasks.shared.estimates.accuracy import Outcome, maj_at_k
from tasks.shared.grading import pooled
from tasks.shared.reporting.summary import with_pooled_answers


def test_equal_answers_get_the_first_spelling() -> None:
    """Integers, values, sets and words; unequal ones stay apart."""
    spellings = [
        ("70", "070", "n=70", "**70**", "70.0", "70 cm"),
        ("\\frac12", "0.5", "1/2", "Rational(1, 2)", "\\frac{2}{4}"),
        ("2\\sqrt{3}", "2*sqrt(3)", "\\sqrt{12}"),
        ("1,2", "2, 1", "[1, 2]"),
        ("71",),
        ("1,1,2",),
        ("ABCD", "abcd"),
        ("DABC",),
        ("no",),
        ("on",),
        ("2516_9",),
        ("2516_8",),
    ]
    answers = [
        answer for same in zip(*[[*s, *[s[0]] * 6][:6] for s in spellings], strict=True) for answer in same
    ]
    assert pooled(answers) == [same[0] for _ in range(6) for same in spellings]
    assert pooled([]) == []


def test_an_answer_that_cannot_be_compared_costs_one_comparison() -> None:
    """Towers of powers equal only themselves."""
    towers = [f"9^{{9^{{9^{n}}}}}" for n in range(3, 9)]
    assert pooled([*towers, "\\frac12", "x+1", towers[0]]) == [*towers, "\\frac12", "x+1", towers[0]]


def test_the_majority_counts_equal_wrong_answers_together() -> None:
    """Three wrong answers in three notations outvote two right ones."""
    wrong = [Outcome(False, "\\frac12"), Outcome(False, "0.5"), Outcome(False, "1/2")]
    evaluation = {"p": [*wrong, Outcome(True, "7"), Outcome(True, "07")], "q": [Outcome(False, None)] * 5}
    assert maj_at_k(evaluation, 5).value == 0.5
    votes = with_pooled_answers(evaluation)
    assert maj_at_k(votes, 5).value == 0.0
    assert [outcome.correct for outcome in votes["p"]] == [False] * 3 + [True] * 2
    assert [outcome.predicted for outcome in votes["q"]] == [None] * 5
