"""Are two answers equal? Exact values exactly, decimals within a millionth of their size, collections item by item.

The first argument is the reference. Either side may have a name or a unit that the other leaves out; where both have
one, they must agree.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise, product

import sympy

from tasks.shared.grading.expressions import equal_exactly, equal_nearly
from tasks.shared.grading.literals import Number
from tasks.shared.grading.reading import decimal_comma, readings
from tasks.shared.grading.regions import equal_regions, equal_relations, is_solved, region_of
from tasks.shared.grading.values import (
    Expression,
    Many,
    Named,
    Quantity,
    Region,
    Relation,
    Value,
    Words,
)

CURRENCIES = {"money", "usd", "eur", "gbp", "yuan", "yen", "rupee", "peso"}


def equal(reference: str, answer: str) -> bool:
    """Whether some reading of `answer` equals some reading of `reference`. Raises TooLarge."""
    if _any_equal(readings(reference), readings(answer)):
        return True
    bare_log = "log" in answer and "\\log" not in answer
    if bare_log and "\\log" in reference and "log_" not in reference.replace(" ", ""):
        return _any_equal(readings(reference), readings(answer.replace("log", "\\log")))
    return _equal_with_decimal_comma(reference, answer)


def _any_equal(references: Iterable[Value], answers: Iterable[Value]) -> bool:
    return any(equal_values(a, b) for a, b in product(references, answers))


def _equal_with_decimal_comma(reference: str, answer: str) -> bool:
    """`0,5` for 0.5. In a reference only after a zero: there 1,5 may be two numbers."""
    commas = decimal_comma(reference) if reference.startswith("0,") else None, decimal_comma(answer)
    if commas == (None, None):
        return False
    sides = [
        [comma] if comma else [value for value in readings(text) if isinstance(value, Number)]
        for text, comma in zip((reference, answer), commas, strict=True)
    ]
    return _any_equal(*sides)


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
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Expression) and isinstance(one.expr, sympy.MatrixBase) and isinstance(other, Many):
            return _equal_single(one, matrix) if (matrix := _as_matrix(other)) else False
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
    """An answer may leave out a single name of the reference: 5 answers `x = 5`, but not `x + y = 5`."""
    if isinstance(a, Named) and isinstance(b, Named):
        return a.name == b.name and equal_values(a.value, b.value)
    if isinstance(a, Named):
        described = isinstance(b, Relation | Region | Many)
        return (a.simple or described) and equal_values(a.value, b)
    assert isinstance(b, Named)
    return not isinstance(a, Words) and equal_values(a, b.value)


def _equal_quantities(a: Value, b: Value) -> bool:
    """A unit on one side only is ignored. A percentage counts as its number or as its hundredth."""
    (left, first), (right, second) = (
        (side.value, side.unit) if isinstance(side, Quantity) else (side, None) for side in (a, b)
    )
    if first is not None and second is not None:
        same_money = "money" in (first, second) and {first, second} <= CURRENCIES
        return (first == second or same_money) and equal_values(left, right)
    if equal_values(left, right):
        return True
    if "percent" in (first, second):
        left, right = (
            _hundredth(side) if unit == "percent" else side for side, unit in ((left, first), (right, second))
        )
        return equal_values(left, right)
    return False


def _hundredth(value: Value) -> Value:
    match value:
        case Number(number, rounding):
            return Number(number / 100, rounding and rounding / 100)
        case Expression(expr, exact):
            return Expression(expr / 100, exact)
    return Words("")


def _equal_single(a: Number | Expression, b: Number | Expression) -> bool:
    """Exact values exactly; a decimal to its last digit if it has six, else within a millionth."""
    if a.exact and b.exact:
        return equal_exactly(a.expr, b.expr)
    roundings = (side.rounding or 0 for side in (a, b) if isinstance(side, Number))
    return equal_nearly(a.expr, b.expr, sympy.Rational(max(roundings, default=0)))


def _value_of_chain(a: Value, chain: Relation) -> bool:
    """Whether a true chain such as `68 + 2 = 70` ends in `a`."""
    if not all(isinstance(part, sympy.Eq) and not part.free_symbols for part in chain.parts):
        return False
    sides = [chain.parts[0].lhs, *(part.rhs for part in chain.parts)]
    if not all(equal_exactly(left, right) for left, right in pairwise(sides)):
        return False
    return equal_values(a, Expression(sides[-1]))


def _equal_collections(a: Many, b: Many) -> bool:
    in_order = _order_matters(a.brackets, b.brackets, len(a.items))
    one_union = "union" in (a.joined, b.joined) and a.joined != b.joined
    if in_order is None or one_union or len(a.items) != len(b.items):
        return False
    if ":" in (a.brackets, b.brackets):
        return a.brackets == b.brackets and _proportional(a.items, b.items)
    named = [all(isinstance(item, Named) for item in side.items) for side in (a, b)]
    # `AB = 4, CD = 5` for `4, 5`: in the order of the names
    if named[0] != named[1] or (in_order and not all(named)):
        return all(map(equal_values, a.items, b.items))
    return _match(a.items, b.items)


def _as_matrix(value: Many) -> Expression | None:
    """`[[1, 2], [3, 4]]` as the matrix of these rows, `(1, 2)` as a column; None if it is neither."""
    rows = [
        item.items if isinstance(item, Many) and item.brackets == "[]" else (item,) for item in value.items
    ]
    cells = [cell for row in rows for cell in row if isinstance(cell, Number | Expression)]
    is_rectangle = len({len(row) for row in rows}) == 1 and len(cells) == len(rows) * len(rows[0])
    if value.brackets not in ("[]", "()") or not is_rectangle:
        return None
    matrix = sympy.Matrix(len(rows), len(rows[0]), [cell.expr for cell in cells])
    return Expression(matrix, all(cell.exact for cell in cells))


def _order_matters(a: str, b: str, count: int) -> bool | None:
    """Whether items are compared in order; None if brackets `a` (of the reference) and `b` exclude each other."""
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


def _match(references: Sequence[Value], answers: Sequence[Value]) -> bool:
    """Whether each item of one side has a different partner on the other."""
    unmatched = list(answers)
    for item in references:
        found = next((place for place, other in enumerate(unmatched) if equal_values(item, other)), None)
        if found is None:
            return False
        del unmatched[found]
    return True


def _quotient(value: Value) -> Value:
    """The fraction for which a ratio of two numbers stands; any other value as it is."""
    match value:
        case Many(":", (Number() | Expression() as first, Number() | Expression() as second)):
            if second.expr != 0:
                return Expression(first.expr / second.expr, first.exact and second.exact)
    return value


def _proportional(a: Sequence[Value], b: Sequence[Value]) -> bool:
    terms = [[item.expr for item in side if isinstance(item, Number | Expression)] for side in (a, b)]
    if [len(side) for side in terms] != [len(a), len(b)] or any(0 in side for side in terms):
        return False
    return all(equal_exactly(x * terms[1][0], y * terms[0][0]) for x, y in zip(*terms, strict=True))
