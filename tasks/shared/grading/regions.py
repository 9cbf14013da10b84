"""Equations, inequalities and sets of numbers: brought to one form and compared."""

import sympy

from tasks.shared.grading.expressions import equal_exactly
from tasks.shared.grading.values import Expression, Many, Named, Number, Region, Relation, Value

TURNED = {sympy.Gt: sympy.Lt, sympy.Lt: sympy.Gt, sympy.Ge: sympy.Le, sympy.Le: sympy.Ge}


def equal_relations(a: Relation, b: Relation) -> bool:
    """The same equation up to a factor, the same inequality up to a positive one, or chains of such, or equal sets."""
    if is_solved(a) and not is_solved(b):
        return False  # the problem said again
    if len(a.parts) == len(b.parts):
        turned = tuple(reversed(b.parts))
        if any(all(map(_equal_parts, a.parts, parts)) for parts in (b.parts, turned)):
            return True
    first, second = region_of(a), region_of(b)
    return (
        first is not None and second is not None and _symbol(a) == _symbol(b) and equal_regions(first, second)
    )


def is_solved(value: Value) -> bool:
    """Whether inequalities are solved: a variable, or its distance from a number, stands against a number."""
    if isinstance(value, Relation):
        unequal = [part for part in value.parts if not isinstance(part, sympy.Eq)]
        return all(any(map(_stands_alone, (part.lhs, part.rhs))) for part in unequal)
    return all(map(is_solved, value.items)) if isinstance(value, Many) else True


def _stands_alone(side: sympy.Basic) -> bool:
    if isinstance(side, sympy.Abs):
        side = side.args[0]
        return (
            sympy.Poly(side, *side.free_symbols).is_linear
            if side.is_polynomial() and side.free_symbols
            else False
        )
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
    if isinstance(a, sympy.Eq | sympy.Ne):
        return type(a) is type(b)
    return type(a) is (type(b) if factor > 0 else TURNED[type(b)])


def _symbol(relation: Relation) -> set[sympy.Symbol]:
    return set().union(*(part.free_symbols for part in relation.parts))


def region_of(value: Value) -> sympy.Set | None:
    """The set of real numbers that `value` describes; None if it describes none."""
    if isinstance(value, Region):
        return _decided(value.numbers)
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
        if (
            len(ends) < 2
            or not all(end.is_extended_real for end in ends)
            or (ends[0] < ends[1]) != sympy.true
        ):
            return None  # a pair, no interval
        return sympy.Interval(*ends, value.brackets[0] == "(", value.brackets[1] == ")")
    if value.brackets == "{}":
        members = [item.expr for item in value.items if isinstance(item, Number | Expression)]
        return sympy.FiniteSet(*members) if len(set(members)) == len(value.items) else None
    if value.brackets or (
        value.joined != "union" and not any(isinstance(item, Relation) for item in value.items)
    ):
        return None
    parts = [region_of(item) for item in value.items]
    if any(part is None for part in parts):
        return None
    if value.joined in ("and", ","):
        common = sympy.Intersection(*parts)
        if value.joined == "and" or not common.is_empty:
            return common
    return sympy.Union(*parts)


def _solutions(relation: Relation) -> sympy.Set | None:
    """The reals for which every part holds."""
    if len(_symbol(relation)) != 1 or any(isinstance(part, sympy.Eq) for part in relation.parts):
        return None
    (symbol,) = _symbol(relation)
    real = sympy.Dummy("x", real=True)
    sets = []
    for part in relation.parts:
        if (half := _half_line(part, symbol)) is not None:
            sets.append(half)
            continue
        held = part.func(part.lhs.xreplace({symbol: real}), part.rhs.xreplace({symbol: real}))
        if held in (sympy.true, sympy.false):
            sets.append(sympy.S.Reals if held == sympy.true else sympy.S.EmptySet)
            continue
        sets.append(held.as_set())
    return _decided(sympy.Intersection(*sets))


def _half_line(part: sympy.Rel, symbol: sympy.Symbol) -> sympy.Set | None:
    """The solutions of `x < number`, without solving."""
    kind, left, right = type(part), part.lhs, part.rhs
    if right == symbol:
        kind, left, right = TURNED.get(kind, kind), right, left
    if left != symbol or not right.is_extended_real:
        return None
    if kind in (sympy.Lt, sympy.Le):
        return sympy.Interval(-sympy.oo, right, True, kind is sympy.Lt)
    return sympy.Interval(right, sympy.oo, kind is sympy.Gt, True) if kind in (sympy.Gt, sympy.Ge) else None


def _decided(numbers: sympy.Set) -> sympy.Set:
    return numbers.doit() if hasattr(numbers, "doit") else numbers


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
