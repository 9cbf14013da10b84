r"""Splits names off values: "x = 5", "n=70", "AB = 5", "f(x) = x^2", "m+n = 70", "(x, y) = (1, 2)", "x \in [0, 1]"."""

import re

from tasks.shared.grading.brackets import cut

# letters, indices, arguments, bars and geometric symbols; nothing is tried twice, so that no text takes long
NAME = (
    r"(?>\\(?!frac|sqrt|sum|int|prod|lim|text|infty|not|(?:pi|leq|geq|neq|equiv|in|log|ln|exp)(?![A-Za-z]))[A-Za-z]+(?:\{[A-Za-z\s']+\})?"
    r"|\\text\s*\{[^{}]*\}|[A-Za-z'\s]|\\#|\|\s*(?:[A-Z]|[A-Za-z]{2,}|[A-Z]\s*\\c[au]p\s*[A-Z])\s*\|"
    r"|_\s*(?:\{[^{}]*\}|\d+|\w)|\^\s*(?:[T*']|\{\s*(?:[T*']+|\(n\))\s*\})"
    r"|(?<=[A-Z])\s?\^\s*\{\s*-1\s*\}|(?<=[a-z])\s?\^\s*\{\s*-1\s*\}(?=\s*\())"
)
ARGUMENT = r"(?:\(\s*[\w\s,.{}\\=<>|-]{1,24}\)|\[\s*[A-Z]\s*\])"
ONE = rf"(?:{NAME}++{ARGUMENT}?+|\[\s*[A-Z]{{3,6}}\s*\]|\{{\s*+{NAME}++\s*\}})"
SIMPLE = re.compile(
    rf"{ONE}(?:\s*+[:/]\s*+{ONE})*+|\(\s*+{ONE}(?:\s*+,\s*+{ONE})*+\s*\)|\\frac\s*\{{{ONE}\}}\s*\{{{ONE}\}}"
)
# competitions ask for sums such as `100m + n`
SUM = re.compile(rf"(?:10+\s*+)?{ONE}(?:\s*+[+-]\s*+(?:10+\s*+)?{ONE})++")
EQUALS = re.compile(r"(?<![<>!=:\\])==?(?![=<>])|\\in(?![A-Za-z])|\\approx(?![A-Za-z])")
BY_COLON = re.compile(
    r"([A-Za-z]\w?(?=:)|[Aa]nswer|\\text\s*\{\s*[Aa]nswer\s*:?\s*\}):?\s*(?<=[\s:}])((?!\$|\\[(\[]).*\d.*)"
)
CONDITION = re.compile(r"\s*(?:not|if|unless)\s")
SEPARATOR = re.compile(r"[,;]|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|\\(?:lor|land|vee|wedge)")


def split_name(text: str) -> tuple[str, str, bool] | None:
    """The name, the text of its value, and whether the name is simple; None if `text` does not begin with a name.

    Of a chain `x = 3 + 2 = 5` the last value counts. A name has no factor: `2x = 5` is an equation.
    """
    (before, *chain), signs = cut(text, EQUALS)
    is_simple = SIMPLE.fullmatch(before.strip()) is not None
    if not chain or CONDITION.match(before) or not (is_simple or SUM.fullmatch(before.strip())):
        return None
    while len(chain) > 1 and signs[len(chain) - 1] == "\\approx":  # approximates the value before
        chain.pop()
    separated = any(SEPARATOR.search(piece) for piece in chain[:-1])  # x = 1, y = 2
    value = text[len(before) + len(signs[0]) :] if separated else chain[-1]
    return re.sub(r"[\s{}]|\\text", "", before), value, is_simple
