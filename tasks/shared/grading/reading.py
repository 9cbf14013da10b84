r"""Read an answer: its lists, brackets, names, units and numbers here, what is left by `python_form` or `latex_form`.

A text can be read in more than one way ("100,200" is a number or a pair); `readings` gives each.
"""

import functools
import re
from collections.abc import Callable

import sympy

from tasks.shared.grading.brackets import closing, cut, enclosed
from tasks.shared.grading.latex_form import read_latex
from tasks.shared.grading.literals import read_literal
from tasks.shared.grading.names import BY_COLON, split_name
from tasks.shared.grading.notation import clean, without_thousands
from tasks.shared.grading.python_form import IMPLICIT, read_python
from tasks.shared.grading.python_names import CONSTANTS, GREEK, SETS
from tasks.shared.grading.units import split_unit
from tasks.shared.grading.values import (
    Expression,
    Many,
    Named,
    Number,
    Quantity,
    Region,
    Relation,
    TooLarge,
    Unreadable,
    Value,
    Words,
)

EMPTY = re.compile(
    r"\\emptyset|(?:\\text\s*\{)?\s*(?:(?:[Tt]he )?[Ee]mpty set|[Nn]o (?:real )?solutions?(?: exists?)?)\s*\}?"
    r"|\\\{\s*\\\}|set\(\)|\{\}|\(\)|\[\]"
)
POSITIVE = sympy.Interval.open(0, sympy.oo)
SETS_BY_NAME = {
    "all real numbers": sympy.S.Reals,
    "all reals": sympy.S.Reals,
    "all integers": sympy.S.Integers,
    "\\mathbb{r}^+": POSITIVE,
    "\\mathbb{r}^{+}": POSITIVE,
    "\\mathbb{r}_{>0}": POSITIVE,
    "\\mathbb{z}^+": sympy.S.Naturals,
    "\\mathbb{z}^{+}": sympy.S.Naturals,
}
SAME_WORDS = {"dne": "does not exist"}
CONNECTIVE = re.compile(
    r",?\s*(?:\\text\s*\{\s*,?\s*(and|or)\s*,?\s*\}|\\(?:land|lor|wedge|vee)(?![A-Za-z])|(?<![A-Za-z\\])(and|or)(?![A-Za-z]))\s*,?"
)
OR = re.compile(r"or|\\lor|\\vee")
BASED = re.compile(r"([0-9A-Za-z]+)\s*_\s*(?:\{\s*(?:\\text\s*\{)?\s*(\w+)\s*\}?\s*\}|(\d+))")
BASES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
BUILDER = re.compile(
    r"[A-Za-z](?:\s*\\in\s*\\(?:mathbb|mathrm)\{R\})?\s*(?:\||:|\\mid(?![A-Za-z])|\\colon)\s*(.+)"
)
RATIO = re.compile(r"[^:=<>]+(?::[^:=<>]+)+")
TIME = re.compile(
    r"\d{1,2}:\d\d(?::\d\d)?(?:\s*(?:[AaPp]\.?\s?[Mm]\.?|\\text\s*\{\s*[AaPp]\.?[Mm]\.?\s*\}))?"
)
LETTERS_ONLY = re.compile(r"[A-Za-z](?:[A-Za-z' ]|(?<=[A-Za-z]{2})-(?=[A-Za-z]{2}))*")
TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
SIGNED = re.compile(r"\\(pm|mp)(?![A-Za-z])")
PRODUCT = re.compile(r"[xyz]{2,3}")


@functools.lru_cache(maxsize=2048)
def readings(answer: str) -> tuple[Value, ...]:
    """Every way to read `answer`, the likeliest first; at least one. TooLarge if the value cannot be worked out."""
    text = clean(answer)
    ways = [_read(text)]
    if text.isascii() and text.isalpha() and "".join(sorted(set(text))) == text:
        ways.append(_leaf(text))  # a letter, or letters in the order in which variables are multiplied
    if isinstance(ways[0], Named) and (not ways[0].simple or _has_variables(ways[0].value)):
        equation = _leaf(text)
        if isinstance(equation, Relation):
            ways.append(equation)
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+", text):
        ways.append(_split(text.split(",")))
    return tuple(ways)


def _has_variables(value: Value) -> bool:
    """Whether `y = value` is an equation of a curve; `x = 5` is a solution, which `2x = 10` is not."""
    return isinstance(value, Words) or (isinstance(value, Expression) and bool(value.expr.free_symbols))


def decimal_comma(answer: str) -> Value | None:
    """`answer` with the comma that some write for the decimal point; None if it is no such number."""
    found = re.fullmatch(r"([+-]?\d+),(\d{1,2}|\d{4,})|([+-]?0),(\d+)", clean(answer))
    literal = read_literal(".".join(part for part in found.groups() if part)) if found else None
    return Number(literal) if literal else None


def _read(text: str) -> Value:
    text = text.strip()
    if not text:
        return Words("")
    if EMPTY.fullmatch(text):
        return Region(sympy.S.EmptySet)
    by_name = SETS_BY_NAME.get(TEXT.sub(r"\1", text).strip().lower())
    if by_name is not None:
        return Region(by_name)
    if (
        text[0] == "{" and closing(text, 0) == len(text) - 1
    ):  # braces that LaTeX does not show, or a Python set
        return _read(text[1:-1])
    for attempt in (_words, _number, _number_with_unit, _based, _time):
        found = attempt(text)
        if found is not None:
            return found
    named = split_name(text)
    if named is not None:
        name, rest, simple = named
        return _with_name(name, _read(rest), simple)
    for attempt in (_bracketed, _list, _union, _named_by_colon, _signed, _ratio, _with_unit):
        found = attempt(text)
        if found is not None:
            return found
    return _leaf(text)


def _words(text: str) -> Value | None:
    """Letters alone: a word, told apart by the order of its letters, unless they are variables side by side."""
    plain = TEXT.sub(r" \1 ", text)
    plain = re.sub(r"\s+", " ", plain).strip().strip(".").strip()
    inner = plain[1:-1].strip() if re.fullmatch(r"\([A-Za-z ]+\)", plain) else plain
    if not LETTERS_ONLY.fullmatch(inner) or PRODUCT.fullmatch(inner):
        return None
    if (
        re.search(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])", inner)
        and "\\" not in text
        and len(inner.split()) <= 9
    ):
        return None
    if inner in KNOWN_NAMES:
        return _leaf(inner) if "\\" in text else None
    words = re.sub(r"\s+", " ", inner).casefold()
    return Words(SAME_WORDS.get(words, words))


KNOWN_NAMES = {name for name in (*CONSTANTS, *SETS, *GREEK) if len(name) > 1}


def _number(text: str) -> Value | None:
    literal = read_literal(without_thousands(text))
    return Number(literal) if literal else None


def _number_with_unit(text: str) -> Value | None:
    """Before lists are looked for: the comma of `$1,000.99` parts no answers."""
    value, unit = split_unit(text)
    number = _number(value.strip()) if unit else None
    return Quantity(number, unit) if number and unit else None


def _based(text: str) -> Value | None:
    """Digits in a base: 2516_9. The base is part of the answer."""
    found = BASED.fullmatch(text)
    if not found or not re.search(r"\d", found[1]):
        return None
    base = found[2] or found[3]
    base = BASES.get(base, base)
    if not base.isdigit() or not all(char.isdigit() or char.isupper() for char in found[1]):
        return None
    return Words(f"{found[1].lstrip('0') or '0'} base {int(base)}")


def _time(text: str) -> Value | None:
    if not TIME.fullmatch(text):
        return None
    return Words(re.sub(r"[\s.{}]|\\text", "", text).lower().lstrip("0"))


def _with_name(name: str, value: Value, simple: bool) -> Value:
    """`x = 1, y = 2` names each item by itself; `x = 1, 2` and `x = 1 or x = 2` name all."""
    if not (isinstance(value, Many) and value.brackets == ""):
        return Named(name, value, simple)
    named = [item for item in value.items if isinstance(item, Named)]
    if not named:
        return Named(name, value, simple)
    if all(item.name == name for item in named) and len(named) == len(value.items) - 1:
        first, *others = value.items
        return Named(
            name,
            Many("", (first, *(item.value for item in others if isinstance(item, Named))), value.joined),
            simple,
        )
    first, *others = value.items
    return Many("", (Named(name, first, simple), *others), value.joined)


def _list(text: str) -> Value | None:
    for separator in (re.compile(r";"), CONNECTIVE, re.compile(r",")):
        pieces, separators = cut(text, separator)
        if len(pieces) > 1:
            joined = (
                "or" if separators and OR.search(separators[0]) else "and" if separator is CONNECTIVE else ","
            )
            if separator is CONNECTIVE:  # "1, 2 and 3" is one list
                pieces = [one for piece in pieces for one in cut(piece, re.compile(r","))[0] if one.strip()]
            return _split(pieces, joined)
    return None


def _split(pieces: list[str], joined: str = ",") -> Value:
    pieces = pieces if pieces[-1].strip() else pieces[:-1]  # Python's (3,)
    items = [_read(piece) for piece in pieces if piece.strip()]
    if not items or len(items) < len(pieces):
        return Words(re.sub(r"\s", "", joined.join(pieces)))
    if len(items) == 1:
        return items[0]
    first, *others = items
    if isinstance(first, Named) and others and not any(isinstance(item, Named) for item in others):
        return Named(first.name, Many("", (first.value, *others), joined), first.simple)
    if isinstance(first, Named) and all(
        isinstance(item, Named) and item.name == first.name for item in others
    ):
        return Named(
            first.name,
            Many("", tuple(item.value for item in items if isinstance(item, Named)), joined),
            first.simple,
        )
    return Many("", tuple(items), joined)


def _union(text: str) -> Value | None:
    pieces, _ = cut(text, re.compile(r"\\(?:cup|bigcup)(?![A-Za-z])|\s[Uu]\s"))
    if len(pieces) < 2:
        return None
    parts = map(_read, pieces)
    sets = [
        Many("{}", part.items) if isinstance(part, Many) and not part.brackets else part for part in parts
    ]
    return Many("", tuple(sets), "union")


def _bracketed(text: str) -> Value | None:
    """What stands in one pair of brackets around the whole."""
    found = enclosed(text)
    if found is None:
        return None
    opens, inner, closes = found
    if re.fullmatch(r"\\begin\s*\{([a-z]*)\}(?:(?!\\begin|\\end).)*\\end\s*\{\1\}", inner):
        return _leaf(inner)
    if not inner:
        return Region(sympy.S.EmptySet)
    if opens == "{" and (members := BUILDER.fullmatch(inner)):
        return _read(members[1])
    content = _list(inner)
    if content is None:
        numbers = (
            re.fullmatch(r"-?[\d.]+(?:\s+-?[\d.]+)+", inner) if opens == "[" else None
        )  # as numpy prints arrays
        content = _split(inner.split()) if numbers else None
    if content is not None and "," in inner and not isinstance(content, Many | Named | Words):
        return content
    if isinstance(content, Many) and content.joined == ",":
        return Many(opens + closes, content.items)
    if content is not None or "|" in inner or "\\mid" in inner:
        return None
    if opens + closes in ("()", "[]", "{}"):
        value = _read(inner)
        return value if opens != "(" or isinstance(value, Number | Many) else None
    return None


def _named_by_colon(text: str) -> Value | None:
    """`x: 2`, as Python prints what an equation's solver found."""
    found = BY_COLON.fullmatch(text)
    return Named(found[1], _read(found[2]), True) if found else None


def _signed(text: str) -> Value | None:
    r"""`a \pm b`: two answers."""
    if not SIGNED.search(text):
        return None
    upper = SIGNED.sub(lambda sign: "+" if sign[1] == "pm" else "-", text)
    lower = SIGNED.sub(lambda sign: "-" if sign[1] == "pm" else "+", text)
    return Many("", (_read(upper), _read(lower)))


def _ratio(text: str) -> Value | None:
    """`7:32`: its terms, of which only the quotients count."""
    if not RATIO.fullmatch(text):
        return None
    parts = tuple(map(_read, text.split(":")))
    return Many(":", parts)


def _with_unit(text: str) -> Value | None:
    value, unit = split_unit(text)
    if unit is None:
        return None
    inner = _read(value)
    return None if isinstance(inner, Words | Named | Quantity) else Quantity(inner, unit)


def _leaf(text: str) -> Value:
    """What is left: one expression, relation or set. Words if nothing can read it."""
    plain = without_thousands(text)
    ways: list[tuple[Callable[[str], Value], str]] = [(read_latex, plain)]
    if "\\" not in plain:
        ways = [(read_python, plain), (read_python, IMPLICIT.sub(r"\1*", plain)), *ways]
    for read, spelling in ways:
        try:
            return read(spelling)
        except (TooLarge, MemoryError):
            raise
        except Unreadable:
            continue
        except Exception:  # noqa: BLE001 - untrusted text meets a computer algebra system: any error may come out
            continue
    return Words(re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", text))
