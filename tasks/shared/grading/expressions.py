"""Are two expressions equal? Proven by expansion, or checked to many digits at sample values of the variables.

A difference of numbers counts as zero only if it is zero to `MOST_DIGITS` digits. Sample values have both signs and
several sizes; some are integers and some fractions.
"""

from collections.abc import Callable

import sympy

from tasks.shared.grading.values import TooLarge

DIGITS = 40
MOST_DIGITS = 400
# a decimal that stands for an integer differs from it by less than this, whatever its size
WHOLE_TOLERANCE = sympy.Rational(1, 1000)
Agree = Callable[[sympy.Basic, sympy.Basic], bool]
# the value of the first variable, and the step from each variable to the next
SAMPLE_VALUES = (
    (sympy.Rational(7, 3), sympy.Rational(5, 11)),
    (sympy.Rational(-13, 7), sympy.Rational(8, 17)),
    (sympy.Integer(2), sympy.Integer(1)),
    (sympy.Integer(-3), sympy.Integer(2)),
    (sympy.Rational(101, 997), sympy.Rational(-12, 13)),
    (sympy.Rational(41, 8), sympy.Rational(-9, 7)),
)


def equal_exactly(a: sympy.Basic, b: sympy.Basic) -> bool:
    """Whether two exact values are the same."""
    if _is_matrix(a) or _is_matrix(b):
        return _equal_cells(a, b, equal_exactly)
    if a.has(sympy.nan) or b.has(sympy.nan):
        return False
    if a == b:
        return True
    if a.has(sympy.oo, sympy.zoo, -sympy.oo) or b.has(sympy.oo, sympy.zoo, -sympy.oo):
        return False
    if a.is_Rational and b.is_Rational:
        return False
    if not a.free_symbols and not b.free_symbols:
        return _is_zero(a - b, max_digits=MOST_DIGITS)
    return _agree_everywhere(a, b, lambda left, right: _is_zero(left - right, max_digits=100))


def equal_nearly(a: sympy.Basic, b: sympy.Basic, rounding: sympy.Rational) -> bool:
    """Whether two values differ by no more than a millionth of the larger one or, unless one is whole, `rounding`."""

    def near(x: sympy.Basic, y: sympy.Basic) -> bool:
        left, right = _numeric(x), _numeric(y)
        if left is None or right is None:
            return False
        bound = max(abs(left), abs(right)) / 10**6
        is_whole = x.is_Rational and y.is_Rational and (x.is_Integer or y.is_Integer)
        bound = min(bound, WHOLE_TOLERANCE) if is_whole else max(bound, rounding)
        return bool(abs(left - right) <= bound)

    if _is_matrix(a) or _is_matrix(b):
        return _equal_cells(a, b, lambda x, y: equal_nearly(x, y, rounding))
    if a.has(sympy.nan, sympy.oo, sympy.zoo, -sympy.oo) or b.has(sympy.nan, sympy.oo, sympy.zoo, -sympy.oo):
        return a == b and not a.has(sympy.nan)
    if not a.free_symbols and not b.free_symbols:
        return near(a, b)
    return a.free_symbols == b.free_symbols and _agree_everywhere(a, b, near)


def _is_matrix(value: object) -> bool:
    return isinstance(value, sympy.MatrixBase | sympy.MatrixExpr)


def _equal_cells(a: sympy.Basic, b: sympy.Basic, equal: Agree) -> bool:
    if not (_is_matrix(a) and _is_matrix(b)):
        return False
    first, second = sympy.Matrix(a), sympy.Matrix(b)
    return first.shape == second.shape and all(map(equal, first.flat(), second.flat()))


def _agree_everywhere(a: sympy.Basic, b: sympy.Basic, agree: Agree) -> bool:
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if len(symbols) > 12:
        raise TooLarge
    tried = 0
    for start, step in SAMPLE_VALUES:
        values = {symbol: start + number * step for number, symbol in enumerate(symbols)}
        left, right = a.subs(values), b.subs(values)
        undefined = [_numeric(side) is None for side in (left, right)]
        if all(undefined):
            continue
        if any(undefined) or not agree(left, right):
            return False
        tried += 1
    return tried >= 3 or (tried > 0 and bool(sympy.simplify(a - b) == 0))


def _is_zero(difference: sympy.Basic, max_digits: int) -> bool:
    """Whether a number is zero: by expansion, or to `max_digits` digits of its largest term."""
    if difference == 0 or sympy.expand(difference) == 0:
        return True
    if difference.is_Rational:
        return False
    value = difference.evalf(5, maxn=max_digits)
    if not value.is_number or value.has(sympy.nan, sympy.zoo, sympy.oo):
        return False
    parts = value.as_real_imag()
    return all(part == 0 or getattr(part, "_prec", 53) <= 1 for part in parts)


def _numeric(value: sympy.Basic) -> sympy.Basic | None:
    """The value to many digits; None where it is undefined."""
    if value.is_Rational:
        return value
    if value.has(sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit):
        return None
    found = value.evalf(DIGITS)
    if not found.is_number or found.has(sympy.nan, sympy.zoo, sympy.oo) or found.free_symbols:
        return None
    return None if found.atoms(sympy.Function) else found
