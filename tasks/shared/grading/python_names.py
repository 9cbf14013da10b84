"""The names of Python and SymPy that an answer may hold, and their meanings. Any other name is unreadable."""

import re
from collections.abc import Callable

import sympy

MODULE_NAMES = "np numpy math cmath sp sympy sym S mp mpmath fractions decimal scipy torch"
MODULES = set(MODULE_NAMES.split())
CONSTANTS = (
    {name: getattr(sympy, name) for name in ("pi", "E", "I", "oo", "zoo", "GoldenRatio", "EulerGamma")}
    | {name: getattr(sympy.S, name) for name in ("Half", "One", "Zero", "NegativeOne")}
    | {"e": sympy.E}
    | dict.fromkeys(("inf", "Infinity", "infinity"), sympy.oo)
)
SET_NAMES = "EmptySet Reals Integers Naturals Naturals0 Rationals Complexes"
SETS = {name: getattr(sympy.S, name) for name in SET_NAMES.split()}
GREEK_NAMES = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa mu nu xi rho sigma tau phi chi psi omega
"""
GREEK = GREEK_NAMES.split()
FRACTIONS = ("Rational", "Fraction")
SYMPY_FUNCTIONS = """
    sqrt cbrt root exp sin cos tan cot sec csc asin acos atan acot asec acsc atan2 sinh cosh tanh asinh acosh atanh
    floor ceiling factorial binomial gamma re im conjugate arg sign gcd lcm Abs Max Min Mod log Add Mul zeta
"""
# names of Python, NumPy and mpmath for functions of SymPy
ALIASES = """
    abs Abs|fabs Abs|ln log|arcsin asin|arccos acos|arctan atan|comb binomial|perm ff|ceil ceiling|max Max|min Min
"""
FUNCTIONS: dict[str, Callable[..., sympy.Basic]] = {
    name: getattr(sympy, name) for name in SYMPY_FUNCTIONS.split()
} | {alias: getattr(sympy, name) for alias, name in (pair.split() for pair in ALIASES.split("|"))}
FUNCTIONS |= {
    "log2": lambda x: sympy.log(x, 2),
    "log10": lambda x: sympy.log(x, 10),
    "log1p": lambda x: sympy.log(1 + x),
    "expm1": lambda x: sympy.exp(x) - 1,
    "real_root": lambda base, degree=2: sympy.real_root(base, degree),
    "pow": lambda base, exponent: sympy.Pow(base, exponent, evaluate=False),
    "Rational": lambda top, bottom=1: top / bottom,
}
FUNCTIONS |= {"Pow": FUNCTIONS["pow"], "Fraction": FUNCTIONS["Rational"], "mpq": FUNCTIONS["Rational"]}
LARGE = {"factorial", "gamma", "binomial", "comb", "perm"}
# types around a number, which may be in quotes
NUMBERS = re.compile(
    r"(?:u?int|float|complex|longdouble)\d*_?|Integer|Float|Decimal|mpf|mpz|mpc|sympify|S|N|bool_?|tensor"
)
SYMBOLS = {"Symbol", "Dummy"}
# keywords of calls that change no value
IGNORED_NAMES = "domain dtype evaluate real positive negative integer nonnegative"
IGNORED = set(IGNORED_NAMES.split())
COLLECTIONS = (
    dict.fromkeys(("FiniteSet", "set", "frozenset"), "{}")
    | dict.fromkeys(("Tuple", "tuple", "Point", "Point2D", "Point3D"), "()")
    | dict.fromkeys(("list", "array"), "[]")
)
MATRIX_NAMES = "Matrix ImmutableMatrix ImmutableDenseMatrix MutableDenseMatrix SparseMatrix matrix"
MATRICES = set(MATRIX_NAMES.split())
INTERVALS = {"": "[]", "open": "()", "Lopen": "(]", "Ropen": "[)"}
