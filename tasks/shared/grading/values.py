"""The values that an answer can have: numbers, expressions, words, collections, names, relations, sets."""

from dataclasses import dataclass

import sympy

from tasks.shared.grading.literals import Number


class Unreadable(Exception):
    """A text cannot be read in the form that was tried."""


class TooLarge(Exception):
    """A value is too large to be evaluated."""


@dataclass(frozen=True, slots=True)
class Expression:
    """Anything else that has a value, matrices too. Decimals in it became fractions; it is not `exact` then."""

    expr: sympy.Basic | sympy.MatrixBase
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Words:
    """Text that is no mathematics or could not be read: equal only to the same text."""

    text: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with its unit."""

    value: "Value"
    unit: str


@dataclass(frozen=True, slots=True)
class Named:
    """`name = value`."""

    name: str
    value: "Value"
    simple: bool  # one name: a letter, a word, f(x), a ratio of names; no sum


@dataclass(frozen=True, slots=True)
class Many:
    """Several values. `brackets` as written: "" (bare), "()", "[]", "{}", "[)" or "(]"."""

    brackets: str
    items: tuple["Value", ...]
    joined: str = ","  # what joins the items: ",", "and", "or", "union"


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or inequality, or a chain of such."""

    parts: tuple[sympy.Rel, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A set of numbers that is neither a list nor one interval."""

    numbers: sympy.Set


Value = Number | Expression | Words | Quantity | Named | Many | Relation | Region
