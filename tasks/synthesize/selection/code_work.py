"""Measures how much a code block computes, by its syntax tree, to find blocks that only do mental arithmetic.

A loop, a comprehension or a call that computes counts 3; an arithmetic, logical or comparison operator counts 1. Calls
that print, convert or construct count nothing. Calls of functions that the block defines count nothing either, because
their bodies are counted. `print(12 * 7)` is 1, `print(pow(3, 45, 7))` is 3. Code that does not parse is 0.
"""

import ast

from tasks.shared.traces.python_text import parsed

HEAVY, LIGHT = 3, 1
LOOPS = (ast.For, ast.While, ast.comprehension)
OPERATORS = (ast.BinOp, ast.AugAssign, ast.Compare, ast.BoolOp, ast.UnaryOp)
# builtins and sympy's constructors do no work themselves; a loop over range counts as a loop
UNCOUNTED = frozenset(
    {"abs", "bool", "dict", "float", "format", "input", "int", "len", "list", "print", "range", "repr"}
    | {"reversed", "round", "set", "str", "tuple", "append", "join"}
    | {"Decimal", "Fraction", "Integer", "Rational", "Symbol", "symbols"}
)


def code_work(code: str) -> int:
    """The work of one block, 0 for one that computes nothing."""
    tree = parsed(code)
    nodes = list(ast.walk(tree)) if tree else []
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return sum(_work(node, defined) for node in nodes)


def _work(node: ast.AST, defined: set[str]) -> int:
    if isinstance(node, LOOPS):
        return HEAVY
    if isinstance(node, ast.Call):
        return 0 if _name(node.func) in UNCOUNTED | defined else HEAVY
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        return 0
    return LIGHT if isinstance(node, OPERATORS) else 0


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""
