r"""Reads numbers that are written out, exactly: "070", "12,345", "1.5e-3", "1.6\times 10^{-19}", "0.\overline{36}".

An expression is not a literal, whatever its value: sets of integers (AIME) require a number that is written out.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sympy

MAX_EXPONENT = 5000
SIGN = r"(?P<sign>[+-]?)\s*"
WHOLE = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)"
DECIMAL = re.compile(
    SIGN + rf"(?P<whole>{WHOLE})?(?:\.(?P<places>\d*))?"
    r"(?:(?:[eE]|\s*(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*)[{(]?(?P<exponent>[+-]?\d{1,6})[})]?)?"
)
REPEATING = re.compile(
    SIGN + rf"(?P<whole>{WHOLE})?\.(?P<places>\d*)"
    r"(?:\\(?:overline|bar)\s*\{?\s*(?P<line>\d+)\s*\}?|\\dot\s*\{?(?P<first>\d)\}?(?:(?P<between>\d*)\\dot\s*\{?(?P<last>\d)\}?)?"
    r"|\((?P<bracket>\d+)\))"
)
DOTS = re.compile(SIGN + r"(?P<whole>\d*)\.(?P<places>\d+)\s*(?:\\[lc]?dots|\.\.\.)")
MIXED = re.compile(SIGN + r"(?P<whole>\d+)\s*(?:\s(\d+)\s*/\s*(\d+)|\\frac\{(\d+)\}\{(\d+)\})")


@dataclass(frozen=True, slots=True)
class Number:
    """A number that was written out, and how exactly it was given."""

    value: Fraction
    # half a unit of the last digit of a decimal of six or more digits, None for other decimals; 0: exact
    rounding: Fraction | None = Fraction(0)

    @property
    def exact(self) -> bool:
        """Whether it is an integer or a fraction, of which no digits were left out."""
        return self.rounding == 0

    @property
    def expr(self) -> "sympy.Rational":
        """The value for the computer algebra system, which only the worker loads."""
        from sympy import Rational

        return Rational(self.value)


def read_number(text: str) -> Number | None:
    """The number that `text`, cleaned by `notation.clean`, writes out; None if it is no literal."""
    for pattern, value_of in ((DECIMAL, _decimal), (REPEATING, _repeating), (DOTS, _dots), (MIXED, _mixed)):
        if (found := pattern.fullmatch(text)) and (number := value_of(found)):
            return Number(-number.value, number.rounding) if found["sign"] == "-" else number
    return None


def _decimal(found: re.Match[str]) -> Number | None:
    whole, places = (found["whole"] or "").replace(",", ""), found["places"] or ""
    exponent = int(found["exponent"] or 0)
    if not whole + places or abs(exponent) > MAX_EXPONENT:
        return None
    scale = exponent - len(places)
    value = Fraction(int(whole + places)) * Fraction(10) ** scale
    if value.denominator == 1:
        return Number(value)
    digits = len((whole + places).lstrip("0"))
    return Number(value, Fraction(10) ** scale / 2 if digits >= 6 else None)


def _repeating(found: re.Match[str]) -> Number:
    block = (
        found["line"] or found["bracket"] or found["first"] + (found["between"] or "") + (found["last"] or "")
    )
    whole, places = (found["whole"] or "").replace(",", ""), found["places"]
    start = int(whole + places or "0") + Fraction(int(block), 10 ** len(block) - 1)
    return Number(start / 10 ** len(places))


def _dots(found: re.Match[str]) -> Number | None:
    r"""Three equal blocks at the end repeat for ever: 0.1666\dots. Otherwise the decimal is cut off."""
    whole, places = found["whole"], found["places"]
    for start in range(len(places) - 2):
        rest = places[start:]
        for size in range(1, len(rest) // 3 + 1):
            if all(digit == rest[place % size] for place, digit in enumerate(rest)):
                before, block = int(whole + places[:start] or "0"), Fraction(int(rest[:size]), 10**size - 1)
                return Number((before + block) / 10**start)
    unit = Fraction(1, 10 ** len(places))
    return Number(int(whole + places) * unit, unit) if len(places) >= 6 else None


def _mixed(found: re.Match[str]) -> Number | None:
    top, bottom = (int(group) for group in found.groups()[2:] if group)
    return Number(int(found["whole"]) + Fraction(top, bottom)) if bottom else None
