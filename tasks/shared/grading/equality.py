"""Are two answers equal? Exact values exactly, decimals within a millionth of their size, collections item by item.

The first argument is the reference: what it leaves out (a name, a unit) an answer may add, and the other way round,
but what both say must agree.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import sympy

from tasks.shared.grading.expressions import equal_exactly, equal_nearly
from tasks.shared.grading.literals import Literal
from tasks.shared.grading.reading import decimal_comma, readings
from tasks.shared.grading.regions import equal_regions, equal_relations, is_solved, region_of
from tasks.shared.grading.values import (
    Expression,
    Many,
    Named,
    Number,
    Quantity,
    Region,
    Relation,
    Value,
    Words,
)

TOLERANCE = Fraction(1, 10**6)
# a decimal that stands for a whole number differs from it by less, whatever its size
WHOLE_TOLERANCE = Fraction(1, 1000)


def equal(reference: str, answer: str) -> bool:
    """Whether some reading of `answer` equals some reading of `reference`. TooLarge if that cannot be worked out."""
    said, wanted = readings(answer), readings(reference)
    if any(equal_values(a, b) for a in wanted for b in said):
        return True
    if (
        "\\log" in reference
        and "log" in answer
        and "\\log" not in answer
        and "log_" not in reference.replace(" ", "")
    ):
        return any(equal_values(a, b) for a in wanted for b in readings(answer.replace("log", "\\log")))
    return _equal_with_decimal_comma(reference, answer)


def _equal_with_decimal_comma(reference: str, answer: str) -> bool:
    """`0,5` for 0.5. In a reference only after a zero: 1,5 may be two numbers there."""
    wanted = decimal_comma(reference) if reference.startswith("0,") else None
    said = decimal_comma(answer)
    if said is None and wanted is None:
        return False
    first = [wanted] if wanted else [way for way in readings(reference) if isinstance(way, Number)]
    second = [said] if said else [way for way in readings(answer) if isinstance(way, Number)]
    return any(equal_values(a, b) for a in first for b in second)


def equal_values(a: Value, b: Value) -> bool:
    """Whether two values are equal; `a` is the reference's."""
    if isinstance(a, Named) or isinstance(b, Named):
        return _equal_named(a, b)
    if isinstance(a, Quantity) or isinstance(b, Quantity):
        return _equal_quantities(a, b)
    if isinstance(a, Words) or isinstance(b, Words):
        return isinstance(a, Words) and isinstance(b, Words) and a.text == b.text
    if isinstance(a, Many) and isinstance(b, Many) and _equal_collections(a, b):
        return True
    if isinstance(a, Many) != isinstance(b, Many):  # `3:2` for 3/2
        a, b = _quotient(a), _quotient(b)
    if isinstance(a, Expression) and isinstance(a.expr, sympy.MatrixBase) and isinstance(b, Many):
        return _equal_single(a, matrix) if (matrix := _as_matrix(b)) else False
    if isinstance(a, Relation) and isinstance(b, Relation):
        return equal_relations(a, b)
    if isinstance(a, Number | Expression) and isinstance(b, Number | Expression):
        return _equal_single(a, b)
    if isinstance(b, Relation) and isinstance(a, Number | Expression):
        return _value_of_chain(a, b)
    if is_solved(a) and not is_solved(b):
        return False
    first, second = region_of(a), region_of(b)
    return first is not None and second is not None and equal_regions(first, second)


def _equal_named(a: Value, b: Value) -> bool:
    """A name of the reference may be left out where it is one name: `x = 5` is met by 5, `x + y = 5` is not."""
    if isinstance(a, Named) and isinstance(b, Named):
        return a.name == b.name and equal_values(a.value, b.value)
    if isinstance(a, Named):
        described = isinstance(b, Relation | Region | Many)
        return (a.simple or described) and equal_values(a.value, b)
    assert isinstance(b, Named)
    return not isinstance(a, Words) and equal_values(a, b.value)


def _equal_quantities(a: Value, b: Value) -> bool:
    """A unit of one side alone is ignored; a per cent may be meant as such or as its hundredth."""
    first, second = (side.unit if isinstance(side, Quantity) else None for side in (a, b))
    left, right = (side.value if isinstance(side, Quantity) else side for side in (a, b))
    if first is not None and second is not None:
        return _alike(first, second) and equal_values(left, right)
    if equal_values(left, right):
        return True
    if "percent" in (first, second) and all(isinstance(side, Number | Expression) for side in (left, right)):
        left, right = (_hundredth(side, unit) for side, unit in ((left, first), (right, second)))
        return equal_values(left, right)
    return False


def _alike(first: str, second: str) -> bool:
    money = {"money", "usd", "eur", "gbp", "yuan", "yen", "rupee", "peso"}
    return first == second or ("money" in (first, second) and {first, second} <= money)


def _hundredth(value: Value, unit: str | None) -> Value:
    if unit != "percent":
        return value
    if isinstance(value, Number):
        rounding = value.literal.rounding
        return Number(Literal(value.literal.value / 100, rounding / 100 if rounding else rounding))
    assert isinstance(value, Expression)
    return Expression(value.expr / 100, value.approximate)


def _equal_single(a: Number | Expression, b: Number | Expression) -> bool:
    if isinstance(a, Number) and isinstance(b, Number):
        return _equal_literals(a.literal, b.literal)
    if _is_exact(a) and _is_exact(b):
        return equal_exactly(a.expr, b.expr)
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Number) and one.literal.rounding:
            gap = sympy.Rational(one.literal.rounding.numerator, one.literal.rounding.denominator)
            if equal_nearly(one.expr, other.expr, absolute=gap, tolerance=None):
                return True
    return equal_nearly(a.expr, b.expr, tolerance=sympy.Rational(1, 10**6))


def _is_exact(value: Number | Expression) -> bool:
    return value.literal.exact if isinstance(value, Number) else not value.approximate


def _equal_literals(a: Literal, b: Literal) -> bool:
    """Whole numbers and fractions exactly; a decimal by its digits if it has six of them, else by a millionth."""
    gap = abs(a.value - b.value)
    if a.exact and b.exact:
        return gap == 0
    bound = TOLERANCE * max(abs(a.value), abs(b.value))
    for one in (a, b):
        if one.exact and one.value.denominator == 1:
            return gap <= min(bound, WHOLE_TOLERANCE)
    return gap <= max(bound, *(one.rounding or Fraction(0) for one in (a, b)))


def _value_of_chain(a: Value, chain: Relation) -> bool:
    """`68 + 2 = 70` says 70, if it is true."""
    if not all(isinstance(part, sympy.Eq) and not part.free_symbols for part in chain.parts):
        return False
    sides = [chain.parts[0].lhs, *(part.rhs for part in chain.parts)]
    if not all(equal_exactly(left, right) for left, right in pairwise(sides)):
        return False
    return equal_values(a, Expression(sides[-1]))


def _equal_collections(a: Many, b: Many) -> bool:
    order = _order_matters(a.brackets, b.brackets, len(a.items))
    if (
        order is None
        or len(a.items) != len(b.items)
        or ("union" in (a.joined, b.joined) and a.joined != b.joined)
    ):
        return False
    if ":" in (a.brackets, b.brackets):
        return a.brackets == b.brackets and _proportional(a.items, b.items)
    named = [all(isinstance(item, Named) for item in side.items) for side in (a, b)]
    if named[0] != named[1] or (
        order and not all(named)
    ):  # `AB = 4, CD = 5` for `4, 5`: in the order of the names
        return all(map(equal_values, a.items, b.items))
    return _match(a.items, b.items)


def _as_matrix(value: Many) -> Expression | None:
    """`[[1, 2], [3, 4]]` as the matrix of these rows, `(1, 2)` as a column; None if it is neither."""
    if value.brackets not in ("[]", "()"):
        return None
    rows = [
        item.items if isinstance(item, Many) and item.brackets == "[]" else (item,) for item in value.items
    ]
    cells = [cell for row in rows for cell in row]
    if len({len(row) for row in rows}) != 1 or not all(
        isinstance(cell, Number | Expression) for cell in cells
    ):
        return None
    numbers = [cell for cell in cells if isinstance(cell, Number | Expression)]
    matrix = sympy.Matrix(len(rows), len(rows[0]), [cell.expr for cell in numbers])
    return Expression(matrix, not all(map(_is_exact, numbers)))


def _order_matters(a: str, b: str, count: int) -> bool | None:
    """Whether items are compared in order; None if brackets `a` (of the reference) and `b` say different things."""
    if a == b:
        return a not in ("", "{}")
    kinds = {a, b}
    if kinds & {"[)", "(]", ":"}:
        return None
    if a == "" or (b == "" and (a != "[]" or count > 2)):
        return "()" in kinds or a == "[]"
    if b == "" or ("{}" in kinds and "()" in kinds):
        return None
    return None if count == 2 else "()" in kinds


def _match(wanted: Sequence[Value], said: Sequence[Value]) -> bool:
    """Whether each item of one side has one of its own on the other."""
    left = list(said)
    for item in wanted:
        found = next((place for place, other in enumerate(left) if equal_values(item, other)), None)
        if found is None:
            return False
        del left[found]
    return True


def _quotient(value: Value) -> Value:
    """The fraction for which a ratio of two numbers stands; any other value as it is."""
    if not isinstance(value, Many) or value.brackets != ":" or len(value.items) != 2:
        return value
    first, second = value.items
    if (
        not isinstance(first, Number | Expression)
        or not isinstance(second, Number | Expression)
        or second.expr == 0
    ):
        return value
    return Expression(first.expr / second.expr, not (_is_exact(first) and _is_exact(second)))


def _proportional(a: Sequence[Value], b: Sequence[Value]) -> bool:
    terms = [[item.expr for item in side if isinstance(item, Number | Expression)] for side in (a, b)]
    if (
        len(terms[0]) != len(a)
        or len(terms[1]) != len(b)
        or any(term == 0 for side in terms for term in side)
    ):
        return False
    return all(equal_exactly(x * terms[1][0], y * terms[0][0]) for x, y in zip(*terms, strict=True))
