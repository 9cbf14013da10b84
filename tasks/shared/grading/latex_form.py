r"""Reads single LaTeX expressions, relations, matrices and literal sets with Math-Verify's parser, latex2sympy2.

`reading.py` reads lists, brackets, names, units and numbers first. The parser's own rules for these treat different
answers as equal, such as 2516_9 and 2516_8, R - r and r - R, or 1,2 and 1,1,2.
"""

import re
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig
from sympy.logic.boolalg import And

from tasks.shared.grading.brackets import closing
from tasks.shared.grading.evaluation import worked_out
from tasks.shared.grading.literals import read_number
from tasks.shared.grading.values import Expression, Region, Relation, Unreadable, Value

NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
CONVERSION = ConversionConfig(lowercase_symbols=False, interpret_contains_as_eq=True)
LETTERS = re.compile(r"\\[A-Za-z]+|[A-Za-z]{3,}")
FUNCTION_NAMES = """
    sin cos tan cot sec csc log ln exp sqrt max min gcd lcm det arcsin arccos arctan sinh cosh tanh mod pi
"""
FUNCTIONS = FUNCTION_NAMES.split()
BARE_FUNCTION = re.compile(rf"(?<![\\A-Za-z])(?:{'|'.join(FUNCTIONS)})(?![A-Za-z])")
# two numbers side by side are no product (the index of a logarithm does not count); the parser drops dots and quotes
UNREAD = re.compile(r"(?<![_\d.])[\d.]+\s+[\d.]|\\text|['\"$]|\\(?:[lc]|)dots|\.\.\.")
ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-z]*matrix\}")
ARRAY = re.compile(
    r"\\begin\s*\{(?:small|)(?:array|matrix)\}\s*(?:\{[clr| ]*\})?|\\end\s*\{(?:small|)(?:array|matrix)\}"
)
# an odd root of a negative number is the real one
ODD_ROOT = re.compile(r"\\sqrt\s*\[\s*(\d*[13579])\s*\]\s*\{\s*-\s*(\d+)\s*\}")
REPEATING = re.compile(r"\d*\.\d*\\(?:overline|bar)\s*\{\d+\}")
TEXT = re.compile(r"\\text\s*\{\s*([^{}]*?)\s*\}")


def read_latex(text: str) -> Value:
    """The value of `text` read as LaTeX. Unreadable if it is prose or has no value; the parser has more errors."""
    text = _prepared(text)
    if _is_prose(text) or UNREAD.search(text):
        raise Unreadable
    return _value(
        latex2sympy(text, is_real=None, normalization_config=NORMALIZATION, conversion_config=CONVERSION)
    )


def _is_prose(text: str) -> bool:
    """Whether it holds a word: three or more letters out of alphabetical order, unlike a product of variables."""
    text = ENVIRONMENT.sub("", text)
    runs = [run for run in LETTERS.findall(text) if run[0] != "\\" and run not in FUNCTIONS]
    return any("".join(sorted(set(run))) != run for run in runs)


def _value(found: Any) -> Value:
    parts = getattr(found, "_unsorted_args", found.args) if isinstance(found, And) else (found,)
    if all(isinstance(part, sympy.Rel) for part in parts):
        return Relation(tuple(part.func(*map(_side, part.args), evaluate=False) for part in parts))
    if isinstance(found, sympy.Set):
        return Region(found)
    if not isinstance(found, sympy.Expr | sympy.MatrixBase | sympy.MatrixExpr):
        raise Unreadable
    expr, exact = _with_fractions(found)
    return Expression(worked_out(expr), exact)


def _side(side: sympy.Basic) -> sympy.Basic:
    return worked_out(_with_fractions(side)[0])


def _with_fractions(expr: sympy.Basic) -> tuple[sympy.Basic, bool]:
    """The expression with fractions for decimals, and whether it is exact: none of them but integers."""
    decimals = {number: sympy.Rational(str(number)) for number in expr.atoms(sympy.Float)}
    return expr.xreplace(decimals), all(value.is_Integer for value in decimals.values())


def _prepared(text: str) -> str:
    """Write functions and powers as LaTeX does, and text that is a formula as a formula."""
    text = TEXT.sub(
        lambda found: found[1] if re.fullmatch(r"[A-Za-z]|[\d.+-]+", found[1]) else found[0], text
    )
    text = REPEATING.sub(
        lambda found: f"({number.value})" if (number := read_number(found[0])) else found[0], text
    )
    text = ARRAY.sub(lambda mark: f"\\{'begin' if 'begin' in mark[0] else 'end'}{{pmatrix}}", text)
    text = re.sub(r"\\?sqrt\s*(\d{2,})", r"\\sqrt{\1}", text)
    text = BARE_FUNCTION.sub(lambda found: f"\\{found[0]}", text).replace("**", "^")
    text = re.sub(r"\{\s*(.+?)\s*\\choose\s*(.+?)\s*\}", r"\\binom{\1}{\2}", text)
    text = re.sub(r"(\w+)\s*\\choose\s*(\w+)", r"\\binom{\1}{\2}", text).replace("\\bmod", "\\mod")
    text = ODD_ROOT.sub(r"(-\\sqrt[\1]{\2})", text)
    for opener in ("^(", "\\sqrt(", "\\sqrt ("):
        while (start := text.find(opener)) >= 0:
            place = start + len(opener) - 1
            end = closing(text, place)
            if end < 0:
                raise Unreadable
            text = text[:place].rstrip() + "{" + text[place + 1 : end] + "}" + text[end + 1 :]
    return text
