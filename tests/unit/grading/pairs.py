r"""Pairs of answers for the grading test: (predicted, reference, equal), from systematic families and by hand.

Unequal systematic pairs differ by a unit, a sign, an order or a bracket.
"""

from fractions import Fraction
from itertools import pairwise

Pair = tuple[str, str, bool]


def integers() -> list[Pair]:
    """AIME-like answers, padded, signed, with separators, as sums, products, powers and residues."""
    pairs: list[Pair] = []
    for n in (0, 1, 7, 25, 42, 70, 116, 204, 588, 809, 999):
        pairs += [
            (f"{n:03d}", str(n), True),
            (f" {n} ", str(n), True),
            (f"${n}$", str(n), True),
            (f"+{n}", str(n), True),
            (f"{n}.", str(n), True),
            (f"{n}.0", str(n), True),
            (f"{n + 3} - 3", str(n), True),
            (f"x = {n}", str(n), True),
            (f"\\text{{{n}}}", str(n), True),
            (f"\\mathbf{{{n}}}", str(n), True),
            (str(n + 1), str(n), False),
            (f"{n}.5", str(n), False),
            (f"{n}, {n + 1}", str(n), False),
            (f"{n}\\text{{ or }}{n + 2}", str(n), False),
            (f"\\{{{n}, {n + 1}\\}}", str(n), False),
        ]
        if n:
            pairs += [(f"-{n}", str(n), False), (f"{n}0", str(n), False), (f"2 \\cdot {n}", str(2 * n), True)]
    pairs += [(f"{n:,}", str(n), True) for n in (1000, 12345, 9876543)]
    pairs += [(f"{n // 1000}{{,}}{n % 1000:03d}", str(n), True) for n in (1000, 54321)]
    return pairs


def fractions() -> list[Pair]:
    """Rational numbers in every usual notation against each other, and their neighbours."""
    values = [
        Fraction(1, 2),
        Fraction(3, 4),
        Fraction(-5, 8),
        Fraction(7, 20),
        Fraction(22, 5),
        Fraction(-9, 16),
    ]
    pairs: list[Pair] = []
    for value in values:
        top, bottom, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
        latex = f"{sign}\\frac{{{top}}}{{{bottom}}}"
        spellings = (
            f"{sign}{top}/{bottom}",
            f"{sign}\\dfrac{{{top}}}{{{bottom}}}",
            f"{sign}\\tfrac{{{top}}}{{{bottom}}}",
            f"{sign}\\frac{{{3 * top}}}{{{3 * bottom}}}",
            f"{float(value)}",
            f"y = {latex}",
        )
        pairs += [(spelling, latex, True) for spelling in spellings]
        wrong = (
            f"{sign}\\frac{{{bottom}}}{{{top}}}",
            f"{-value}",
            f"{float(value) + 0.01}",
            f"{sign}\\frac{{{top + 1}}}{{{bottom}}}",
        )
        pairs += [(spelling, latex, False) for spelling in wrong]
    return pairs


def surds() -> list[Pair]:
    """Square roots simplified, rationalised and factored, and near misses of them."""
    pairs: list[Pair] = []
    for square, rest in ((2, 2), (3, 2), (2, 5), (4, 3), (5, 6)):
        product = square * square * rest
        simplified = f"{square}\\sqrt{{{rest}}}"
        pairs += [
            (f"\\sqrt{{{product}}}", simplified, True),
            (f"\\sqrt{{{square * square}}}\\sqrt{{{rest}}}", simplified, True),
            (f"\\sqrt{{{rest}}} \\cdot {square}", simplified, True),
            (f"\\frac{{{square * rest}}}{{\\sqrt{{{rest}}}}}", simplified, True),
            (f"{square}\\sqrt{{{rest + 1}}}", simplified, False),
            (f"{square + 1}\\sqrt{{{rest}}}", simplified, False),
            (f"\\sqrt{{{product + 1}}}", simplified, False),
            (f"-{simplified}", simplified, False),
            (f"\\frac{{{square}}}{{\\sqrt{{{rest}}}}}", simplified, False),
        ]
    return pairs


def polynomials() -> list[Pair]:
    """(x - a)(x - b) multiplied out, in other orders, and with one coefficient off."""
    pairs: list[Pair] = []
    for a, b in pairwise((1, 4, 6, 9, 11)):
        factored, total, product = f"(x-{a})(x-{b})", a + b, a * b
        pairs += [
            (f"x^2 - {total}x + {product}", factored, True),
            (f"{product} - {total} x + x^2", factored, True),
            (f"(x-{b})(x-{a})", factored, True),
            (f"x^2 + {total}x + {product}", factored, False),
            (f"x^2 - {total}x + {product + 1}", factored, False),
            (f"y^2 - {total}y + {product}", factored, False),
        ]
    return pairs


def collections() -> list[Pair]:
    """Tuples keep their order, sets do not; intervals keep their brackets."""
    pairs: list[Pair] = []
    for a, b, c in ((1, 2, 3), (0, 5, 7), (-4, 2, 9), (11, 13, 17)):
        pairs += [
            (f"({a}, {b}, {c})", f"({a},{b},{c})", True),
            (f"({b}, {a}, {c})", f"({a},{b},{c})", False),
            (f"\\{{{c}, {a}, {b}\\}}", f"\\{{{a},{b},{c}\\}}", True),
            (f"\\{{{a}, {b}\\}}", f"\\{{{a},{b},{c}\\}}", False),
            (f"\\{{{a}, {b}, {c + 1}\\}}", f"\\{{{a},{b},{c}\\}}", False),
            (f"\\left[{a}, {b}\\right]", f"[{a},{b}]", True),
            (f"[{a}, {b})", f"[{a},{b}]", False),
            (f"({a}, {b}]", f"[{a},{b}]", False),
            (f"[{a}, {b + 1}]", f"[{a},{b}]", False),
            (f"(-\\infty, {a}) \\cup ({b}, \\infty)", f"({b}, \\infty) \\cup (-\\infty, {a})", True),
            (f"(-\\infty, {a}] \\cup ({b}, \\infty)", f"(-\\infty, {a}) \\cup ({b}, \\infty)", False),
        ]
    return pairs


BY_HAND: list[Pair] = [
    ("\\pi", "\\pi", True),
    ("3.141593", "\\pi", True),
    ("3.14", "\\pi", False),
    ("\\frac{\\pi}{6}", "\\pi/6", True),
    ("30^\\circ", "30", True),
    ("\\sin 30^\\circ", "\\frac12", True),
    ("\\sin 30", "\\frac12", False),  # a bare number is in radians
    ("\\sin\\frac{\\pi}{6}", "\\frac12", True),
    ("\\cos\\frac{\\pi}{3}", "\\frac12", True),
    ("\\cos\\frac{\\pi}{6}", "\\frac12", False),
    ("2^{10}", "1024", True),
    ("2^{10}", "1023", False),
    ("5!", "120", True),
    ("5!", "24", False),
    ("\\binom{10}{3}", "120", True),
    ("\\binom{10}{4}", "120", False),
    ("\\log_2 8", "3", True),
    ("\\log_2 9", "3", False),
    ("\\ln e", "1", True),
    ("e^{\\ln 5}", "5", True),
    ("e^{i\\pi}", "-1", True),
    ("i^2", "-1", True),
    ("3 + 4i", "4i + 3", True),
    ("3 - 4i", "3 + 4i", False),
    ("(1+i)(1-i)", "2", True),
    ("|{-7}|", "7", True),
    ("\\sum_{k=1}^{10} k", "55", True),
    ("\\sum_{k=1}^{10} k", "45", False),
    ("\\int_0^1 x \\, dx", "\\frac12", True),
    ("0.\\overline{3}", "1/3", True),
    ("0.333333", "1/3", True),
    ("0.33", "1/3", False),
    ("1.5e3", "1500", True),
    ("1.5 \\times 10^3", "1500", True),
    ("50\\%", "50", True),
    ("12\\text{ cm}", "12", True),
    ("12\\text{ cm}^2", "12", True),
    ("\\$15", "15", True),
    (
        "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
        "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
        True,
    ),
    (
        "\\begin{pmatrix} 1 & 2 \\\\ 3 & 5 \\end{pmatrix}",
        "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
        False,
    ),
    ("x > 3", "3 < x", True),
    ("x \\geq 3", "x > 3", False),
    ("y = 2x + 1", "y = 1 + 2x", True),
    ("y = 2x - 1", "y = 2x + 1", False),
    ("\\text{(C)}", "C", True),
    ("\\text{(B)}", "C", False),
    ("\\text{even}", "even", True),
    ("\\frac{x+1}{x}", "1 + \\frac{1}{x}", True),
    ("\\frac{x+1}{x}", "1 + x", False),
    ("\\frac{a+b}{2}", "\\frac{b+a}{2}", True),
    ("(a+b)^2", "a^2 + 2ab + b^2", True),
    ("(a+b)^2", "a^2 + b^2", False),
    ("\\infty", "\\infty", True),
    ("-\\infty", "\\infty", False),
    ("\\emptyset", "\\emptyset", True),
    ("1\\frac{1}{2}", "\\frac{3}{2}", True),
    ("\\sqrt[3]{27}", "3", True),
    ("\\sqrt[3]{26}", "3", False),
    ("17_8", "17_{8}", True),
    ("\\sqrt{2} + \\sqrt{3}", "\\sqrt{3} + \\sqrt{2}", True),
    ("\\sqrt{2} + \\sqrt{3}", "\\sqrt{5}", False),
    ("\\frac{1}{\\sqrt{2}-1}", "\\sqrt{2}+1", True),
    ("\\sqrt{3 + 2\\sqrt{2}}", "1 + \\sqrt{2}", True),
    ("\\phi", "\\frac{1+\\sqrt{5}}{2}", False),
    ("\\frac{1}{0}", "0", False),
    ("the answer is 5", "5", True),
    ("n = 5, m = 6", "5", False),
    ("５", "5", True),
]
