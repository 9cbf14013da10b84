r"""Rewrites an answer in one spelling: ASCII and LaTeX without emphasis, spacing commands, dollars and punctuation.

Text to text, standard library only. Integer sets are graded with this alone. No rule changes the value of an answer.
"""

import re
import unicodedata
from functools import partial

from tasks.shared.grading.brackets import closing

NFKC = partial(unicodedata.normalize, "NFKC")
SUPERSCRIPTS = re.compile("[⁰¹²³⁴-⁹⁺⁻⁽⁾ⁿ]+")
SUBSCRIPTS = re.compile("[₀-₉₊₋ₐ-ₜᵢⱼ]+")
GREEK = {
    chr(code): "\\" + unicodedata.name(chr(code)).split()[-1].lower()
    for code in range(0x3B1, 0x3CA)
    if code not in (0x3BF, 0x3C2, 0x3BB)
} | {"λ": "\\lambda", "Δ": "\\Delta", "Ω": "\\Omega", "Σ": "\\Sigma", "ϕ": "\\phi", "ϵ": "\\epsilon"}
# a command and the characters that stand for it
SIGNS = """
    times ×✕⨯|cdot ·⋅∙•|div ÷|infty ∞|leq ≤⩽|geq ≥⩾|neq ≠|approx ≈|pm ±|mp ∓|cup ∪|cap ∩|emptyset ∅⌀Ø|in ∈
    |angle ∠|setminus ∖|mathbb{R} ℝ|mathbb{Z} ℤ|mathbb{Q} ℚ|mathbb{N} ℕ|mathbb{C} ℂ
"""
CHARACTERS = (
    {char: f" \\{name} " for name, chars in (pair.split() for pair in SIGNS.split("|")) for char in chars}
    | {char: f"{sign} " for char, sign in GREEK.items()}
    | dict.fromkeys("°º˚", "^\\circ")
    | dict.fromkeys("−‐‑‒–—―﹣－", "-")
    | dict.fromkeys("，、﹐", ",")
    | dict.fromkeys("。．", ".")
    | dict.fromkeys("′’‘", "'")
    | dict.fromkeys("“”", '"')
    | dict.fromkeys("⟨〈", "\\langle ")
    | dict.fromkeys("⟩〉", "\\rangle ")
    | {
        "℃": "^\\circ C",
        "℉": "^\\circ F",
        "¢": " cents",
        "⁄": "/",
        "∕": "/",
        "…": "\\ldots ",
        "∶": ":",
        "√": "\\sqrt ",
    }
)
# commands that set nothing but size, style or space
LAYOUT = re.compile(
    r"\\(?:(?:display|text|(?:script)?script)style|limits|nolimits|left|right|middle|[bB]igg?[lrm]?|tiny|small"
    r"|(?:normal|script|footnote)size|large|Large|LARGE|huge|Huge|bf|rm|it|sf|tt|em|normalfont|bfseries|itshape"
    r"|(?:math|text)(?:bf|rm|it|sf|tt)(?=\s*\d)|mathstrut|strut|protect|null|nobreak|hfill|hspace\*?"
    r"\{[^{}]*\}|qquad|quad|enspace|thinspace|negthinspace)(?![A-Za-z])\.?|\\[,;:!>]|(?<!\\)\\ |(?<!^)~|&nbsp;"
)
STYLES = (
    r"mathbf|boldsymbol|bm|mathit|mathsf|mathtt|mathnormal|mathcal|emph|underline|uline|underbar|ensuremath|boxed|fbox"
    r"|framebox|bold|pmb|mathop|displaylimits|(?:f|text)?color(?:box)?(?:\{[^{}]*\})+|smash|vcenter|mathord|mathopen"
)
STYLED = re.compile(r"\\(?:" + STYLES + r")\s*\{")
TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up|sc|md)?|mbox|hbox|mathrm|operatorname\*?|textup)\s*(?=\{)"
)
TEXT_COLOR = re.compile(r"\\color\{[^{}]*\}(?!\{)|\\label\{[^{}]*\}|\\tag\*?\{[^{}]*\}")
TAGS = re.compile(r"</?(?:b|i|u|em|strong|sup|sub|span|p|br|mark)\s*/?>", re.IGNORECASE)
# marks that may surround an answer; of those that begin alike the longer one comes first
AROUND = [("\\(", "\\)"), ("\\[", "\\]"), ("``", "''"), ("«", "»")]
AROUND += [(mark, mark) for mark in ("$$", "$", "***", "**", "__", "*", "_", "`", '"', "'", "''")]
FUNCTION = re.compile(
    r"\\(?:operatorname\*?|mathrm|text)\s*\{\s*"
    r"((?:arc)?(?:sin|cos|tan|cot|sec|csc|tg|ctg)h?|log|ln|exp|gcd|lcm|det|max|min)\s*\}"
)
# two names of one command; the second replaces the first
NAMES = """
    varepsilon epsilon|varphi phi|vartheta theta|varnothing emptyset|tg tan|ctg cot|arctg arctan|cosec csc
    |leqslant leq|le leq|geqslant geq|ge geq|ne neq|lt <|gt >|dbinom binom|tbinom binom|lg log_{10}|backslash setminus
"""
SAME = {f"\\{name}": other for name, other in (pair.split() for pair in NAMES.split("|"))}
COMMAND = re.compile(r"\\[A-Za-z]+")
TWO_ARGUMENTS = re.compile(r"\\(frac|binom)\s*(?:(\w)|\{([^{}]*)\})\s*(?:(\w)|\{([^{}]*)\})")
# words or signs that introduce an answer
LEADING = re.compile(
    r"(?i:\\text\s*\{\s*)?(?:(?i:so|thus|hence|therefore)\s*,?\s+)?(?:(?i:the|my|our)\s+)?(?i:final\s+)?"
    r"(?i:answer|result|solution|value)\s+(?i:is|equals)\s*:?\s*\}?\s*(?=[\d\\(\[{$.+-]|[A-Z](?![A-Za-z]))"
    r"|(?:\\text\s*\{\s*)?[A-Za-z]{3,}(?: [A-Za-z]+){0,4}\s*:\s*\}?\s*(?=[^:]*\d[^:]*$)"
    r"|\\(?:approx\s*(?=-?\d*\.\d{6})|(?:therefore|implies|Rightarrow|Longrightarrow|rightarrow|to)(?![A-Za-z]))\s*|&\s*"
    r"|(?i:\\text\s*\{\s*approximately\s*\}|approximately)\s+(?=-?\d*\.\d{6})"
)
# an environment of one line only positions that line
ONE_LINE = re.compile(
    r"\\begin\{(aligned|align\*?|equation\*?|gathered|gather\*?|split|array\}\{[clr])\}((?:(?!\\\\|\\begin|\\end).)*)\\end\{\w+\*?\}"
)
FRACTION_OF_UNITS = re.compile(r"\\frac\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}")
ORDINAL = re.compile(
    r"(?<=\d)\s*(?:\^\s*)?(?:\{\s*)?(?:st|nd|rd|th|\\text\s*\{\s*(?:st|nd|rd|th)\s*\})(?:\s*\})?$"
)
CHOICE = re.compile(r"(?:\\text\s*\{\s*)?(?i:option|choice)\s*\}?\s*\(?([A-J])\)?\s*\}?|([A-J])\)")
RAISED_FRACTION = re.compile(r"\^\s*(\\frac\{[^{}]*\}\{[^{}]*\})")
DEGREES_OF = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc))\s*[({]?\s*(\d+)\s*\^\s*\{?\s*\\(?:circ|degree)(?![A-Za-z])\s*\}?\s*[)}]?"
)
ROOTS = {"√": "", "∛": "[3]", "∜": "[4]"}
ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z])")
# formulas within a text; an inline formula has no line break
FORMULA = re.compile(
    r"(?<!\\)\$\$([^$]+)\$\$|(?<!\\)\$([^$\n]+)(?<!\\)\$|(?<!\\)\\\(([^\n]*?)\\\)|(?<!\\)\\\[(.*?)\\\]",
    re.DOTALL,
)
THOUSANDS = re.compile(r"(?<![\d.,\w])\d{1,3}(\{,\}|'| |_)\d{3}(?:\1\d{3})*(?![\d\w]|,\d|\{,\}\d)")


def clean(answer: str) -> str:
    r"""Rewrite `answer` in the one spelling. Example: `"**７０**."` gives `"70"`, `"$\mathbf{x}²$"` gives `"x^{2}"`."""
    text = re.sub(r"\\!\s*", "", _ascii(answer))
    if "\\begin" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z({\[])", r"\\", text)  # backslashes that were escaped twice
    text = FORMULA.sub(lambda found: next(group for group in found.groups() if group is not None), text)
    text = COMMAND.sub(_same, FUNCTION.sub(r"\\\1 ", text))
    text = re.sub(r"\{\s*\\(?:rm|bf|it|sf|tt)\s+([^{}]*)\}", r"\\text{\1}", text)
    text = TEXT_COLOR.sub("", TAGS.sub("", text))
    text = LAYOUT.sub(" ", text)
    text = _unstyled(TEXT.sub(r"\\text", text))
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text).replace("\\colon", ":")
    text = re.sub(r"\}\s*/\s*\\text\s*\{", "/", text) if "\\text" in text else text
    text = re.sub(r"\\text\s*\{([^{}A-Za-z\\]*)\}", r" \1 ", text)
    text = re.sub(r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}", text)
    text = re.sub(r"(\\mathbb\{[A-Z]\})\s*-\s*(?=\\\{)", r"\1\\setminus", text)
    text = re.sub(r"\\log\s*_\s*(?:e(?![A-Za-z])|\{\s*e\s*\})", r"\\ln", text)
    text = re.sub(r"\\sqrt\s*(\[\w+\])\s*(\d)", r"\\sqrt\1{\2}", text)
    text = TWO_ARGUMENTS.sub(r"\\\1{\2\3}{\4\5}", text)
    text = re.sub(r"'([A-Za-z]\w?)'\s*:", r"\1:", text)  # the keys of a printed dictionary
    text = re.sub(r"&\s*=|:=", "=", ONE_LINE.sub(r"\2", text)).replace("\\newline", " ")
    text = FRACTION_OF_UNITS.sub(r"\\text{\1/\2}", text)
    text = DEGREES_OF.sub(r"\1(\\frac{\2\\pi}{180})", RAISED_FRACTION.sub(r"^{\1}", text))
    text = re.sub(r"\s+", " ", text).strip()
    while (bare := _uncovered(text)) != text:
        text = bare
    return text


def without_thousands(text: str) -> str:
    """Remove the separators of thousands, except a bare comma, which may separate two answers."""
    return THOUSANDS.sub(lambda number: re.sub(r"\D", "", number[0]), text)


def _same(command: re.Match[str]) -> str:
    other = SAME.get(command[0])
    return command[0] if other is None else other if other in "<>" else f"\\{other}"


def _ascii(text: str) -> str:
    """Digits of every script, signs, Greek letters, powers, indices and vulgar fractions in ASCII and LaTeX."""
    if text.isascii():
        return text
    text = re.sub("(?:\\d\u0305)+", lambda run: f"\\overline{{{run[0].replace(chr(0x305), '')}}}", text)
    text = ROOT.sub(lambda root: f"\\sqrt{ROOTS[root[1]]}{{{root[2]}}}", text)
    text = SUPERSCRIPTS.sub(lambda run: f"^{{{NFKC(run[0])}}}", text)
    text = SUBSCRIPTS.sub(lambda run: f"_{{{NFKC(run[0])}}}", text)
    return "".join(char if char.isascii() else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    """A character in ASCII and LaTeX; "" for one that is not seen."""
    if char in CHARACTERS:
        return CHARACTERS[char]
    if (digit := unicodedata.decimal(char, None)) is not None:
        return str(digit)
    plain = NFKC(char)
    if unicodedata.decomposition(char).startswith("<fraction>"):
        return "\\frac{" + plain.replace("⁄", "}{") + "}"
    return " " if char.isspace() else "" if unicodedata.category(char) == "Cf" else plain


def _unstyled(text: str) -> str:
    r"""Remove commands that change nothing but the look of their argument: `\mathbf{70}` is 70."""
    while (found := STYLED.search(text)) is not None:
        end = closing(text, found.end() - 1)
        if end < 0:
            return text
        inner = text[found.end() : end]
        space = " " if re.search(r"\\[A-Za-z]+$", text[: found.start()]) else ""
        text = text[: found.start()] + space + inner + text[end + 1 :]
    return text


def _uncovered(text: str) -> str:
    """Remove one layer around the whole text: dollars, emphasis, quotes, braces, or punctuation at the end."""
    text = text.strip()
    text = text.removesuffix("\\.").rstrip("\\ ")
    if len(text) > 1 and text[-1] in ".,;:?" and not text.endswith(("..", "\\:", "\\,", "\\;")):
        text = text[:-1].rstrip()
    for opens, closes in AROUND:
        inner = text[len(opens) : len(text) - len(closes)]
        if (
            len(text) > len(opens) + len(closes)
            and text.startswith(opens)
            and text.endswith(closes)
            and opens not in inner
            and (opens not in ("*", "_") or inner[0] not in "*_ ")
        ):
            return inner.strip()
    if text.startswith("\\text{") and closing(text, 5) == len(text) - 1 and re.search(r"[\\\d]", text[6:]):
        return text[6:-1].strip()
    if choice := CHOICE.fullmatch(text):
        return choice[1] or choice[2]
    if leading := LEADING.match(text):
        return text[leading.end() :]
    text = ORDINAL.sub("", text)
    if text.startswith("{") and text.endswith("}") and closing(text, 0) == len(text) - 1:
        inner = text[1:-1].strip()
        return inner or text
    return text
