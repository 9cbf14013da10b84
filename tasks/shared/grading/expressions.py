"""Are two expressions equal? Proven by expansion, or found so to many digits at every place where it is tried.

Numbers are compared to 300 digits of their difference before a difference counts as none; expressions with variables
at places of both signs and several sizes, whole and broken.
"""

import sympy

from tasks.shared.grading.values import TooLarge

DIGITS = 40
MOST_DIGITS = 400
# the value of the first variable, and what each further one has more
PLACES = (
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
    return _agree_everywhere(a, b, _vanishes)


def equal_nearly(
    a: sympy.Basic, b: sympy.Basic, tolerance: sympy.Rational | None, absolute: sympy.Rational | None = None
) -> bool:
    """Whether two values differ by no more than `tolerance` of their size, or by no more than `absolute`."""

    def near(x: sympy.Basic, y: sympy.Basic) -> bool:
        if (x.is_Integer and y.is_Rational) or (y.is_Integer and x.is_Rational):
            whole = sympy.Rational(1, 1000)
            return bool(abs(x - y) <= (absolute or min(whole, tolerance * max(abs(x), abs(y)))))
        if x.is_Rational and y.is_Rational:
            return bool(abs(x - y) <= (absolute if tolerance is None else tolerance * max(abs(x), abs(y))))
        left, right = _numeric(x), _numeric(y)
        if left is None or right is None:
            return False
        gap, size = abs(left - right), max(abs(left), abs(right))
        return bool(gap <= (absolute if tolerance is None else tolerance * size))

    if _is_matrix(a) or _is_matrix(b):
        return _equal_cells(a, b, lambda x, y: equal_nearly(x, y, tolerance, absolute))
    if a.has(sympy.nan, sympy.oo, sympy.zoo, -sympy.oo) or b.has(sympy.nan, sympy.oo, sympy.zoo, -sympy.oo):
        return a == b and not a.has(sympy.nan)
    if not a.free_symbols and not b.free_symbols:
        return near(a, b)
    return a.free_symbols == b.free_symbols and _agree_everywhere(a, b, near)


def _is_matrix(value: object) -> bool:
    return isinstance(value, sympy.MatrixBase | sympy.MatrixExpr)


def _equal_cells(a: sympy.Basic, b: sympy.Basic, equal: object) -> bool:
    if not (_is_matrix(a) and _is_matrix(b)):
        return False
    first, second = sympy.Matrix(a), sympy.Matrix(b)
    return first.shape == second.shape and all(map(equal, first.flat(), second.flat()))  # type: ignore[call-overload]


def _agree_everywhere(a: sympy.Basic, b: sympy.Basic, agree: object) -> bool:
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if len(symbols) > 12:
        raise TooLarge
    tried = 0
    for start, step in PLACES:
        place = {symbol: start + number * step for number, symbol in enumerate(symbols)}
        left, right = a.subs(place), b.subs(place)
        values = [_numeric(side) for side in (left, right)]
        if values == [None, None]:
            continue
        if None in values or not agree(left, right):  # type: ignore[operator]
            return False
        tried += 1
    return tried >= 3 or (tried > 0 and _is_zero_symbolically(a - b))


def _vanishes(left: sympy.Basic, right: sympy.Basic) -> bool:
    return _is_zero(left - right, max_digits=100)


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


def _is_zero_symbolically(difference: sympy.Basic) -> bool:
    return bool(sympy.simplify(difference) == 0)


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
