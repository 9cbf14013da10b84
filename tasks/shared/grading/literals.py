r"""Reads numbers that are written out, exactly: "070", "12,345", "1.5e-3", "1.6\times 10^{-19}", "0.\overline{36}".

An expression is not a literal, whatever its value: sets of integers (AIME) require a number that is written out.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_EXPONENT = 5000
SIGN = r"(?P<sign>[+-]?)\s*"
WHOLE = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)"
DECIMAL = re.compile(
    SIGN + rf"(?P<whole>{WHOLE})?(?:\.(?P<places>\d*))?"
    r"(?:(?:[eE]|\s*(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*)[{(]?(?P<exponent>[+-]?\d{1,6})[})]?)?"
)
POWER_OF_TEN = re.compile(SIGN + r"10\s*\^\s*\{?(?P<exponent>-?\d{1,6})\}?")
REPEATING = re.compile(
    SIGN + r"(?P<whole>\d*)\.(?P<places>\d*)"
    r"(?:\\(?:overline|bar)\s*\{?(?P<line>\d+)\}?|\\dot\s*\{?(?P<first>\d)\}?(?:(?P<between>\d*)\\dot\s*\{?(?P<last>\d)\}?)?"
    r"|\((?P<bracket>\d+)\))"
)
DOTS = re.compile(SIGN + r"(?P<whole>\d*)\.(?P<places>\d+)\s*(?:\\[lc]?dots|\.\.\.)")
MIXED = re.compile(
    SIGN
    + r"(?P<whole>\d+)\s*(?:\s(?P<top>\d+)\s*/\s*(?P<bottom>\d+)|\\frac(?:\{(\d+)\}|\s*(\d))(?:\{(\d+)\}|\s*(\d)))"
)


@dataclass(frozen=True, slots=True)
class Literal:
    """A number and how exactly it was given."""

    value: Fraction
    # half a unit of the last digit of a decimal of six or more digits, None for other decimals; 0: exact
    rounding: Fraction | None = Fraction(0)

    @property
    def exact(self) -> bool:
        """Whether it is an integer or a fraction, of which no digits were left out."""
        return self.rounding == 0


def read_literal(text: str) -> Literal | None:
    """The number that `text`, cleaned by `notation.clean`, writes out; None if it is no literal."""
    for pattern, value_of in (
        (DECIMAL, _decimal),
        (POWER_OF_TEN, _power),
        (REPEATING, _repeating),
        (DOTS, _dots),
        (MIXED, _mixed),
    ):
        found = pattern.fullmatch(text)
        if found:
            literal = value_of(found)
            if literal is not None:
                return Literal(-literal.value, literal.rounding) if found["sign"] == "-" else literal
    return None


def _decimal(found: re.Match[str]) -> Literal | None:
    whole, places = (found["whole"] or "").replace(",", ""), found["places"] or ""
    exponent = int(found["exponent"] or 0)
    if not whole + places or abs(exponent) > MAX_EXPONENT:
        return None
    scale = exponent - len(places)
    value = Fraction(int(whole + places)) * Fraction(10) ** scale
    if value.denominator == 1:
        return Literal(value)
    digits = len((whole + places).lstrip("0"))
    return Literal(value, Fraction(10) ** scale / 2 if digits >= 6 else None)


def _power(found: re.Match[str]) -> Literal | None:
    exponent = int(found["exponent"])
    return None if abs(exponent) > MAX_EXPONENT else Literal(Fraction(10) ** exponent)


def _repeating(found: re.Match[str]) -> Literal:
    block = (
        found["line"] or found["bracket"] or found["first"] + (found["between"] or "") + (found["last"] or "")
    )
    places = found["places"]
    start = Fraction(int(found["whole"] + places or "0"), 10 ** len(places))
    return Literal(start + Fraction(int(block), (10 ** len(block) - 1) * 10 ** len(places)))


def _dots(found: re.Match[str]) -> Literal | None:
    r"""Three equal blocks at the end repeat for ever: 0.1666\dots. Otherwise the decimal is cut off."""
    whole, places = found["whole"], found["places"]
    for start in range(len(places) - 2):
        rest = places[start:]
        for size in range(1, len(rest) // 3 + 1):
            if all(digit == rest[place % size] for place, digit in enumerate(rest)):
                scale = 10**start
                return Literal(
                    Fraction(int(whole + places[:start] or "0"), scale)
                    + Fraction(int(rest[:size]), (10**size - 1) * scale)
                )
    unit = Fraction(1, 10 ** len(places))
    return Literal(int(whole + places) * unit, unit) if len(places) >= 6 else None


def _mixed(found: re.Match[str]) -> Literal | None:
    top, bottom = (
        next(int(g) for g in groups if g) for groups in (found.group(3, 5, 6), found.group(4, 7, 8))
    )
    return Literal(Fraction(int(found["whole"])) + Fraction(top, bottom)) if bottom else None
