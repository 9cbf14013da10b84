"""Compares equations, inequalities and sets of numbers in one normal form."""

import sympy

from tasks.shared.grading.expressions import equal_exactly
from tasks.shared.grading.literals import Number
from tasks.shared.grading.values import Expression, Many, Named, Region, Relation, Value


def equal_relations(a: Relation, b: Relation) -> bool:
    """Whether they are one equation up to a factor, one inequality up to a positive factor, or have equal solutions."""
    if is_solved(a) and not is_solved(b):
        return False  # the answer only repeats the problem
    if len(a.parts) == len(b.parts) and any(
        all(map(_equal_parts, a.parts, parts)) for parts in (b.parts, b.parts[::-1])
    ):
        return True
    first, second = region_of(a), region_of(b)
    if first is None or second is None or _symbols(a) != _symbols(b):
        return False
    return equal_regions(first, second)


def is_solved(value: Value) -> bool:
    """Whether every inequality has a variable, or a variable's distance from a number, alone on one side."""
    if isinstance(value, Relation):
        unequal = [part for part in value.parts if not isinstance(part, sympy.Eq)]
        return all(any(map(_stands_alone, (part.lhs, part.rhs))) for part in unequal)
    return all(map(is_solved, value.items)) if isinstance(value, Many) else True


def _stands_alone(side: sympy.Basic) -> bool:
    if isinstance(side, sympy.Abs):
        inner = side.args[0]
        is_polynomial = inner.is_polynomial() and bool(inner.free_symbols)
        return is_polynomial and sympy.Poly(inner, *inner.free_symbols).is_linear
    return side.is_Symbol or (-side).is_Symbol


def _equal_parts(a: sympy.Rel, b: sympy.Rel) -> bool:
    first, second = a.lhs - a.rhs, b.lhs - b.rhs
    if equal_exactly(first, second):
        return type(a) is type(b)
    if first.free_symbols != second.free_symbols or not first.free_symbols or second == 0:
        return False
    factor = sympy.cancel(first / second)
    if not factor.is_number or factor == 0 or not factor.is_real:
        return False
    return type(a) is type(b if factor > 0 else b.reversed)


def _symbols(relation: Relation) -> set[sympy.Symbol]:
    return set().union(*(part.free_symbols for part in relation.parts))


def region_of(value: Value) -> sympy.Set | None:
    """The set of real numbers that `value` describes; None if it describes none."""
    if isinstance(value, Region):
        return value.numbers.doit()
    if isinstance(value, Named):
        return region_of(value.value)
    if isinstance(value, Relation):
        return _solutions(value)
    if isinstance(value, Number | Expression):
        return sympy.FiniteSet(value.expr) if not value.expr.free_symbols else None
    if isinstance(value, Many):
        return _of_many(value)
    return None


def _of_many(value: Many) -> sympy.Set | None:
    if value.brackets in ("()", "[]", "[)", "(]") and len(value.items) == 2:
        ends = [item.expr for item in value.items if isinstance(item, Number | Expression)]
        are_real = len(ends) == 2 and all(end.is_extended_real for end in ends)
        if not are_real or (ends[0] < ends[1]) != sympy.true:
            return None  # a pair, no interval
        return sympy.Interval(*ends, value.brackets[0] == "(", value.brackets[1] == ")")
    if value.brackets == "{}":
        members = [item.expr for item in value.items if isinstance(item, Number | Expression)]
        return sympy.FiniteSet(*members) if len(set(members)) == len(value.items) else None
    is_set = value.joined == "union" or any(isinstance(item, Relation) for item in value.items)
    is_set |= value.joined == "or" and all(isinstance(item, Many) for item in value.items)
    parts = [region_of(item) for item in value.items] if is_set and not value.brackets else [None]
    if None in parts:
        return None
    if value.joined in ("and", ","):
        common = sympy.Intersection(*parts)
        if value.joined == "and" or not common.is_empty:
            return common
    return sympy.Union(*parts)


def _solutions(relation: Relation) -> sympy.Set | None:
    """The real numbers for which every part holds."""
    if len(_symbols(relation)) != 1 or any(isinstance(part, sympy.Eq) for part in relation.parts):
        return None
    reals = dict.fromkeys(_symbols(relation), sympy.Dummy("x", real=True))
    parts = (part.func(part.lhs.xreplace(reals), part.rhs.xreplace(reals)) for part in relation.parts)
    return sympy.Intersection(sympy.S.Reals, *(part.as_set() for part in parts)).doit()


def equal_regions(a: sympy.Set, b: sympy.Set) -> bool:
    """Whether two sets have the same members."""
    if a == b:
        return True
    if isinstance(a, sympy.Interval) and isinstance(b, sympy.Interval):
        return (
            (a.left_open, a.right_open) == (b.left_open, b.right_open)
            and equal_exactly(a.start, b.start)
            and equal_exactly(a.end, b.end)
        )
    if isinstance(a, sympy.FiniteSet) and isinstance(b, sympy.FiniteSet):
        return len(a) == len(b) and all(any(equal_exactly(x, y) for y in b) for x in a)
    return bool(sympy.SymmetricDifference(a, b).is_empty)
