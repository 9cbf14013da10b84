"""Reads expressions as Python and SymPy print them, from Python's syntax tree. No text is ever executed.

A name of one letter is a variable. Any other name must be listed in `python_names`, or the text is unreadable. So it is
after any other error too: a foreign text can make the syntax tree or SymPy fail in many ways.
"""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import sympy

from tasks.shared.grading import python_names as names
from tasks.shared.grading.evaluation import worked_out
from tasks.shared.grading.regions import region_of
from tasks.shared.grading.values import (
    Expression,
    Many,
    Named,
    Region,
    Relation,
    Unreadable,
    Value,
    Words,
)

OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: lambda base, exponent: worked_out(sympy.Pow(base, exponent, evaluate=False)),
}
RELATIONS: dict[type[ast.cmpop], type[sympy.Rel]] = {
    ast.Eq: sympy.Eq,
    ast.NotEq: sympy.Ne,
    ast.Lt: sympy.Lt,
    ast.LtE: sympy.Le,
    ast.Gt: sympy.Gt,
    ast.GtE: sympy.Ge,
}
INDEXED = re.compile(r"([A-Za-z])_?(\d+)")
IMPLICIT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(?=[A-Za-z(](?!\d*\b[eE][+-]?\d))|(?<=\))\s*(?=[\w(])")


def read_python(text: str) -> Value:
    """The value of `text` read as Python. Raises Unreadable, or another error, if it cannot be read."""
    text = text.replace("^", "**").strip()
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise Unreadable from None
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    if "#" in text or not keywords <= names.IGNORED:
        raise Unreadable
    return _Reader(text).value(tree.body)


class _Reader:
    """Reads one tree, and notes whether it holds a decimal."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._exact = True

    def value(self, node: ast.expr) -> Value:
        """Collections, relations and sets; everything else is an expression."""
        match node:
            case ast.Tuple(elts=items):
                return Many("()", self._items(items))  # `reading` has cut those without parentheses
            case ast.List(elts=items):
                return Many("[]", self._items(items))
            case ast.Set(elts=items):
                return Many("{}", self._items(items))
            case ast.Compare():
                return self._relation(node)
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr() as op):
                joined = "and" if isinstance(op, ast.BitAnd) else "or"
                sides = self.value(node.left), self.value(node.right)
                if not all(isinstance(side, Relation | Many) for side in sides):
                    raise Unreadable  # bits of numbers
                return Many("", sides, joined)
            case ast.Constant(value=str() as value):
                return Words(value.lower())
            case ast.Name(id=name) | ast.Attribute(value=ast.Name(id=("S" | "sympy" | "sp")), attr=name) if (
                name in names.SETS
            ):
                return Region(names.SETS[name])
            case ast.Attribute(attr="True_" | "False_" as name):  # numpy's
                return Words(name[:-1].lower())
            case ast.Call(func=function, args=args):
                found = self._call_of_collection(_name_of(function), function, args)
                if found is not None:
                    return found
        return Expression(self._side(node), self._exact)

    def _items(self, nodes: Sequence[ast.expr]) -> tuple[Value, ...]:
        # each item is read separately: a decimal in one makes no other approximate
        return tuple(_Reader(self._text).value(node) for node in nodes)

    def _call_of_collection(self, name: str, function: ast.expr, args: list[ast.expr]) -> Value | None:
        if name in names.COLLECTIONS:
            if len(args) == 1 and isinstance(args[0], ast.List | ast.Tuple | ast.Set):
                args = args[0].elts
            return Many(names.COLLECTIONS[name], self._items(args)) if args else Region(sympy.S.EmptySet)
        if name in names.MATRICES and args and isinstance(args[0], ast.List):
            rows = [row.elts if isinstance(row, ast.List) else [row] for row in args[0].elts]
            matrix = sympy.Matrix([[self._side(cell) for cell in row] for row in rows])
            return Expression(matrix, self._exact)
        if name == "Interval":
            return self._interval("", args)
        if isinstance(function, ast.Attribute) and _name_of(function.value) == "Interval":
            return self._interval(name, args)
        if name == "Complement" and len(args) == 2:
            return Region(sympy.Complement(*map(region_of, self._items(args))))
        if name in ("Union", "Or", "And") and args:
            items = self._items(args)
            return Many("", items, {"Union": "union", "Or": "or", "And": "and"}[name])
        if name == "Eq" and len(args) == 2 and isinstance(args[0], ast.Name):
            return Named(args[0].id, self.value(args[1]), True)
        if name in ("Eq", "Ne", "Lt", "Le", "Gt", "Ge") and len(args) == 2:
            return Relation((getattr(sympy, name)(*map(self._side, args), evaluate=False),))
        if name == "Poly" and args:
            return _Reader(self._text).value(args[0])
        return None

    def _interval(self, kind: str, args: list[ast.expr]) -> Value:
        brackets = list(names.INTERVALS[kind])
        for place, flag in enumerate(args[2:4]):  # whether an end is open
            if isinstance(flag, ast.Constant) and flag.value is True:
                brackets[place] = "()"[place]
        return Many("".join(brackets), self._items(args[:2]))

    def _relation(self, node: ast.Compare) -> Relation:
        sides = [self._side(side) for side in (node.left, *node.comparators)]
        pairs = zip(node.ops, pairwise(sides), strict=True)
        return Relation(tuple(RELATIONS[type(op)](*pair, evaluate=False) for op, pair in pairs))

    def _side(self, node: ast.expr) -> sympy.Basic:
        return worked_out(self._expr(node))

    def _expr(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() | complex() as number) if not isinstance(number, bool):
                return self._number(number, ast.get_source_segment(self._text, node) or "")
            case ast.Name(id=name):
                return _symbol(name)
            case ast.Attribute(value=ast.Name(id=module), attr=name) if (
                module in names.MODULES and name in names.CONSTANTS
            ):
                return names.CONSTANTS[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._expr(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._expr(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](self._expr(left), self._expr(right))
            case ast.Call(func=function, args=args):
                return self._call(function, args)
        raise Unreadable

    def _call(self, function: ast.expr, args: list[ast.expr]) -> Any:
        name = _name_of(function)
        if name in ("complex", "mpc") and len(args) == 2:
            return self._wrapped(args[0]) + sympy.I * self._wrapped(args[1])
        if (names.NUMBERS.fullmatch(name) and args) or (name in names.FRACTIONS and len(args) == 1):
            return self._wrapped(args[0])
        if name in names.SYMBOLS and args and isinstance(args[0], ast.Constant):
            return _symbol(str(args[0].value))
        function_of = names.FUNCTIONS[name]
        values = [self._expr(arg) for arg in args]
        if name in names.LARGE and any(value.is_number and abs(value) > 5000 for value in values):
            raise Unreadable
        return worked_out(function_of(*values))

    def _wrapped(self, node: ast.expr) -> Any:
        """The number in `mpf('0.5')`, `Fraction('1/3')`, `np.float64(5.0)`."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if not re.fullmatch(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d{1,4})?|\.\d+|\d+/\d+|inf|oo)", node.value):
                raise Unreadable
            if node.value.lstrip("+-") in ("inf", "oo"):
                return -sympy.oo if node.value[0] == "-" else sympy.oo
            self._exact &= "." not in node.value and "e" not in node.value.lower()
            return sympy.Rational(Fraction(node.value))
        return self._expr(node)

    def _number(self, number: complex, written: str) -> Any:
        if isinstance(number, complex):
            self._exact = False
            return sympy.I * sympy.Rational(Fraction(repr(number.imag)))
        if isinstance(number, int):
            return sympy.Integer(number)
        is_short = re.fullmatch(r"[\d_]*\.?[\d_]*(?:[eE][+-]?\d{1,4})?", written)
        value = sympy.Rational(Fraction(written if is_short else repr(number)))
        self._exact &= value.is_Integer
        return value


def _name_of(function: ast.expr) -> str:
    """The function's own name in `sqrt` and `sympy.sqrt`; "" for anything else."""
    match function:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=module), attr=name) if module in names.MODULES | {"Interval"}:
            return name
    return ""


def _symbol(name: str) -> sympy.Basic:
    if name in names.CONSTANTS:
        return names.CONSTANTS[name]
    if found := INDEXED.fullmatch(name):
        return sympy.Symbol(f"{found[1]}_{found[2]}" if len(found[2]) == 1 else f"{found[1]}_{{{found[2]}}}")
    if (len(name) == 1 and name.isalpha()) or name in names.GREEK:
        return sympy.Symbol(name)
    raise Unreadable
