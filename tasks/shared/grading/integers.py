r"""Reads integer literals as AIME answers write them: "070", "n = 70", "**70**", "\text{70}", "30^\circ".

An expression is not a literal, whatever its value: the problem's own formula in a box is no answer, nor is a list.
"""

import re

from tasks.shared.grading.literals import read_number
from tasks.shared.grading.names import BY_COLON, split_name
from tasks.shared.grading.notation import clean, without_thousands
from tasks.shared.grading.units import split_unit

BRACKETS = re.compile(r"\(([^()]*)\)|\[([^\[\]]*)\]|\\?\{([^{}]*?)\\?\}|\\text\s*\{([^{}]*)\}")
# a number as a program prints it, wrapped in its type
WRAPPED = re.compile(
    r"(?:(?:np|numpy|sp|sympy)\.)?(?:u?int\d*|float\d*|Integer|Float|Decimal|mpz|mpf)\((['\"]?)([+-]?[\d.]+)\1\)"
)
PLAIN = re.compile(r"[+-]?\s*[\d.,]+(?:[eE][+-]?\d+)?")
MAX_DIGITS = 400


def read_integer(answer: str) -> int | None:
    """The integer that `answer` writes out; None if it is not an integer literal."""
    if answer.isascii() and answer.isdigit() and len(answer) <= MAX_DIGITS:
        return int(answer)
    if len(answer) > 2 * MAX_DIGITS:
        return None
    text = clean(answer)
    named = split_name(text)
    text = named[1].strip() if named else text
    if by_colon := BY_COLON.fullmatch(text):
        text = by_colon[2].strip()
    text, _ = split_unit(text)
    if brackets := BRACKETS.fullmatch(text.strip()):
        text = next(group for group in brackets.groups() if group is not None)
    if wrapped := WRAPPED.fullmatch(text.strip()):
        text = wrapped[2]
    text = without_thousands(text.strip())
    number = read_number(text) if PLAIN.fullmatch(text) else None
    return int(number.value) if number and number.value.denominator == 1 else None
