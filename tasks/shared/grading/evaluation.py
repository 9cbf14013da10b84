"""Evaluates expressions exactly, and refuses those that are too large before any work is done."""

import sympy
from sympy.core.function import AppliedUndef

from tasks.shared.grading.values import TooLarge

MAX_BITS = 60_000  # of a power that is evaluated
MAX_TERMS = 20_000  # of a sum or product
INDEX = sympy.Symbol("i")


def worked_out(expr: sympy.Basic) -> sympy.Basic:
    """`expr` evaluated from the leaves up. TooLarge for towers of powers, large factorials and long sums."""
    if isinstance(expr, sympy.MatrixBase):
        return expr.applyfunc(worked_out)
    if not expr.args:
        return sympy.I if expr == INDEX else expr
    if isinstance(expr, sympy.Sum | sympy.Product | sympy.Integral | sympy.Limit | sympy.Derivative):
        return _with_bound_variables(expr)
    if isinstance(expr, AppliedUndef):
        return sympy.Symbol(str(expr))
    if isinstance(expr, sympy.UnevaluatedExpr):
        return worked_out(expr.args[0])
    args = [worked_out(arg) for arg in expr.args]
    if isinstance(expr, sympy.Pow):
        return _power(*args)
    if isinstance(expr, sympy.factorial | sympy.gamma) and args[0].is_number and abs(args[0]) > 5000:
        raise TooLarge
    if isinstance(expr, sympy.binomial) and args[0].is_number and abs(args[0]) > 20_000:
        raise TooLarge
    if isinstance(expr, sympy.MatMul | sympy.MatAdd):
        return expr.func(*args).doit()
    return expr.func(*args)


def _power(base: sympy.Basic, exponent: sympy.Basic) -> sympy.Basic:
    if base.is_Matrix:
        if not exponent.is_Integer or abs(exponent) > 1000:
            raise TooLarge
        return base**exponent
    if base.is_Rational and exponent.is_Rational:
        bits = max(abs(base.p).bit_length(), base.q.bit_length())
        if abs(exponent) * bits > MAX_BITS and base not in (0, 1, -1):
            raise TooLarge
        if not exponent.is_Integer and bits > 300:
            raise TooLarge  # sympy simplifies a root by factoring
    return base**exponent


def _with_bound_variables(expr: sympy.Basic) -> sympy.Basic:
    """Evaluate a sum, product, integral, limit or derivative, in which `i` may be the bound variable."""
    bound = {limits[0] for limits in expr.args[1:] if limits.args}
    if isinstance(expr, sympy.Sum | sympy.Product):
        for _, low, high in expr.limits:
            if (high - low).is_number and MAX_TERMS < high - low < sympy.oo:
                raise TooLarge
    indices = [name.name.partition("_")[2] for name in expr.free_symbols - bound]
    if any(str(symbol) in index for symbol in bound for index in indices):  # in terms such as F_k
        return expr.func(worked_out(expr.args[0]), *expr.args[1:])
    done = expr.doit()
    if done.has(type(expr)) and done == expr:
        return done if INDEX in bound else done.xreplace({INDEX: sympy.I})
    return done if INDEX in bound else worked_out(done)
