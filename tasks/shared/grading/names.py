r"""Names before a value: "x = 5", "n=70", "AB = 5", "f(x) = x^2", "m+n = 70", "(x, y) = (1, 2)", "x \in [0, 1]"."""

import re

# letters, indices, arguments, bars and what geometry puts before a name
NAME = (
    r"(?:\\(?!frac|sqrt|sum|int|prod|lim|text|infty|(?:pi|le|ge|ne|in|log|ln|exp)(?![A-Za-z]))[A-Za-z]+(?:\{[A-Za-z\s']+\})?"
    r"|\\text\s*\{[^{}]*\}|[A-Za-z'\s]|\\#|\|\s*(?:[A-Z]|[A-Za-z]{2,}|[A-Z]\s*\\c[au]p\s*[A-Z])\s*\|"
    r"|_\s*(?:\{[^{}]*\}|\d+|\w)|\^\s*(?:[T*']|\{\s*(?:-1|[T*'()n]+)\s*\}))"
)
ARGUMENT = r"(?:\(\s*[\w\s,.{}\\=<>|-]{1,24}\)|\[\s*[A-Z]\s*\])"
ONE = rf"{NAME}+{ARGUMENT}?|\[\s*[A-Z]{{3,6}}\s*\]|\{{\s*{NAME}+\s*\}}"
SIMPLE = re.compile(
    rf"(?:{ONE})(?:\s*[:/]\s*(?:{ONE}))*|\(\s*(?:{ONE})(?:\s*,\s*(?:{ONE}))*\s*\)"
    rf"|\\frac\s*\{{(?:{ONE})\}}\s*\{{(?:{ONE})\}}"
)
# competitions ask for sums of names and powers of ten of them: `100m + n`
SUM = re.compile(rf"(?:10+\s*)?(?:{ONE})(?:\s*[+-]\s*(?:10+\s*)?(?:{ONE}))+")
EQUALS = re.compile(r"(?<![<>!=:\\])==?(?![=<>])|\\in(?![A-Za-z])|\\approx(?![A-Za-z])")
BY_COLON = re.compile(
    r"([A-Za-z]\w?(?=:)|[Aa]nswer|\\text\s*\{\s*[Aa]nswer\s*:?\s*\}):?\s*(?<=[\s:}])((?!\$|\\[(\[]).*\d.*)"
)
RELATION = re.compile(r"<|>|!=|\\(?:leq?|geq?|neq?|lt|gt|leqslant|geqslant|equiv)(?![A-Za-z])")
SEPARATOR = re.compile(r"[,;]|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|\\(?:lor|land|vee|wedge)")


def split_name(text: str) -> tuple[str, str, bool] | None:
    """The name, what is said of it, and whether it is one name; None if `text` does not begin with a name.

    Of a chain `x = 3 + 2 = 5` the last value counts. A number multiplies no name: `2x = 5` is an equation.
    """
    places = [mark for mark in EQUALS.finditer(text) if _depth(text, mark.start()) == 0]
    before = text[: places[0].start()] if places else ""
    if not places or any(_depth(text, mark.start()) == 0 for mark in RELATION.finditer(before)):
        return None
    first = text[: places[0].start()].strip()
    simple = SIMPLE.fullmatch(first) is not None
    if not first or not (simple or SUM.fullmatch(first)):
        return None
    ends = [*(mark.start() for mark in places[1:]), len(text)]
    chain = [text[mark.end() : end] for mark, end in zip(places, ends, strict=True)]
    marks = [mark[0] for mark in places]
    while len(chain) > 1 and marks[-1].startswith("\\approx"):  # an approximation of what was said
        chain.pop()
        marks.pop()
    if any(SEPARATOR.search(piece) for piece in chain[:-1]):  # x = 1, y = 2
        return re.sub(r"[\s{}]|\\text", "", first), text[places[0].end() :], simple
    return re.sub(r"[\s{}]|\\text", "", first), chain[-1], simple


def _depth(text: str, place: int) -> int:
    before = text[:place]
    return sum(map(before.count, "([{")) - sum(map(before.count, ")]}"))
