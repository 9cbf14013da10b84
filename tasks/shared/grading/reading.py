r"""Reads an answer: lists, brackets, names, units and numbers here, the rest with `python_form` or `latex_form`.

A text can have more than one reading ("100,200" is a number or a pair); `readings` gives each of them.
"""

import functools
import re
from collections.abc import Callable, Sequence
from itertools import chain

import sympy

from tasks.shared.grading.brackets import closing, cut, enclosed
from tasks.shared.grading.latex_form import FUNCTIONS, read_latex
from tasks.shared.grading.literals import Number, read_number
from tasks.shared.grading.names import BY_COLON, split_name
from tasks.shared.grading.notation import clean, without_thousands
from tasks.shared.grading.python_form import IMPLICIT, read_python
from tasks.shared.grading.python_names import CONSTANTS, GREEK, SETS
from tasks.shared.grading.units import split_unit
from tasks.shared.grading.values import (
    Expression,
    Many,
    Named,
    Quantity,
    Region,
    Relation,
    TooLarge,
    Value,
    Words,
)

# in lower case, without \text
SETS_BY_NAME = {
    r"\\emptyset|(?:the )?empty set|no (?:real )?solutions?(?: exists?)?": sympy.S.EmptySet,
    r"\\\{\s*\\\}|(?:set|emptyset)\(\)|\{\s*\}|\(\s*\)|\[\s*\]": sympy.S.EmptySet,
    r"all real(?:s| numbers)": sympy.S.Reals,
    r"all integers": sympy.S.Integers,
    r"\\mathbb\{r\}(?:\^\{?\+\}?|_\{>0\})|(?:all )?positive real(?:s| numbers)": sympy.Interval.open(
        0, sympy.oo
    ),
    r"\\mathbb\{z\}(?:\^\{?\+\}?|_\{>0\})|(?:all )?positive integers": sympy.S.Naturals,
}
SAME_WORDS = {"dne": "does not exist"}
CONNECTIVE = re.compile(
    r",?\s*(?:\\text\s*\{\s*,?\s*(and|or)\s*,?\s*\}|\\(?:land|lor|wedge|vee)(?![A-Za-z])|(?<![A-Za-z\\])(and|or)(?![A-Za-z]))\s*,?"
)
OR = re.compile(r"or|\\lor|\\vee")
SEMICOLON, COMMA = re.compile(";"), re.compile(",")
CUP = re.compile(r"\\(?:cup|bigcup)(?![A-Za-z])|\s[Uu]\s")
BASED = re.compile(r"([0-9A-Za-z]+)\s*_\s*(?:\{\s*(?:\\text\s*\{)?\s*(\w+)\s*\}?\s*\}|(\d+))")
NUMERALS = "two three four five six seven eight nine ten"
BASES = {name: str(base) for base, name in enumerate(NUMERALS.split(), start=2)}
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
# numbers or rows between blanks, as numpy prints them
PRINTED_ARRAY = re.compile(r"-?[\d.]+(?:\s+-?[\d.]+)+|\[[^\[\]]*\](?:\s*\[[^\[\]]*\])+")
PRODUCT = re.compile(r"[xyz]{2,3}")


@functools.lru_cache(maxsize=2048)
def readings(answer: str) -> tuple[Value, ...]:
    """Every reading of `answer`, the likeliest first; at least one. Raises TooLarge if a value is too large."""
    text = clean(answer)
    found = [_read(text)]
    if text.isascii() and text.isalpha() and "".join(sorted(set(text))) == text:
        found.append(_leaf(text))  # a letter, or letters in the order in which variables are multiplied
    if isinstance(found[0], Named) and (not found[0].simple or _has_variables(found[0].value)):
        equation = _leaf(text)
        if isinstance(equation, Relation):
            found.append(equation)
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+", text):
        found.append(_split(text.split(",")))
    return tuple(found)


def _has_variables(value: Value) -> bool:
    """Whether `y = value` is the equation of a curve, and not a solution such as `x = 5`."""
    return isinstance(value, Words) or (isinstance(value, Expression) and bool(value.expr.free_symbols))


def decimal_comma(answer: str) -> Value | None:
    """The number that `answer` writes with a decimal comma; None if it has none."""
    found = re.fullmatch(r"([+-]?\d+),(\d{1,2}|\d{4,})|([+-]?0),(\d+)", clean(answer))
    return _number(".".join(filter(None, found.groups()))) if found else None


def _read(text: str) -> Value:
    text = text.strip()
    if not text:
        return Words("")
    name = TEXT.sub(r"\1", text).strip().lower()
    for pattern, members in SETS_BY_NAME.items():
        if re.fullmatch(pattern, name):
            return Region(members)
    # braces that LaTeX does not show, or a Python set
    if text[0] == "{" and closing(text, 0) == len(text) - 1:
        return _read(text[1:-1])
    for attempt in FORMS:
        value = attempt(text)
        if value is not None:
            return value
    return _leaf(text)


def _words(text: str) -> Value | None:
    """Letters only: words, unless they are variables side by side."""
    plain = TEXT.sub(r" \1 ", text)
    plain = re.sub(r"\s+", " ", plain).strip().strip(".").strip()
    inner = plain[1:-1].strip() if re.fullmatch(r"\([A-Za-z ]+\)", plain) else plain
    if not LETTERS_ONLY.fullmatch(inner) or PRODUCT.fullmatch(inner):
        return None
    has_connective = re.search(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])", inner)
    if has_connective and "\\" not in text and len(inner.split()) <= 9:  # a list
        return None
    if len(inner.split()) == 2 and inner.split()[0] in FUNCTIONS:  # `sin x`
        return None
    if inner in KNOWN_NAMES:
        return _leaf(inner) if "\\" in text else None
    words = re.sub(r"\s+", " ", inner).casefold()
    return Words(SAME_WORDS.get(words, words))


KNOWN_NAMES = {name for name in (*CONSTANTS, *SETS, *GREEK) if len(name) > 1}


def _number(text: str) -> Number | None:
    return read_number(without_thousands(text))


def _number_with_unit(text: str) -> Value | None:
    """Tried before lists, because the comma in `$1,000.99` separates no answers."""
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


def _named(text: str) -> Value | None:
    """`x = 1, y = 2` names each item separately; `x = 1, 2` and `x = 1 or x = 2` name all items."""
    split = split_name(text)
    if split is None:
        return None
    name, rest, simple = split
    value = _read(rest)
    if isinstance(value, Many) and value.brackets == "":
        return _named_list((Named(name, value.items[0], simple), *value.items[1:]), value.joined)
    return Named(name, value, simple)


def _named_list(items: Sequence[Value], joined: str) -> Value:
    """A bare list; as one named list if its first item is named and the others have the same name or none."""
    first, *others = items
    names = {item.name for item in others if isinstance(item, Named)}
    num_named = sum(isinstance(item, Named) for item in others)
    if isinstance(first, Named) and (not num_named or (num_named == len(others) and names == {first.name})):
        values = tuple(item.value if isinstance(item, Named) else item for item in items)
        return Named(first.name, Many("", values, joined), first.simple)
    return Many("", tuple(items), joined)


def _list(text: str) -> Value | None:
    for separator in (SEMICOLON, CONNECTIVE, COMMA):
        pieces, separators = cut(text, separator)
        if len(pieces) > 1:
            joined = "or" if OR.search(separators[0]) else "and" if separator is CONNECTIVE else ","
            if separator is CONNECTIVE:  # "1, 2 and 3" is one list
                pieces = [item for piece in pieces for item in cut(piece, COMMA)[0] if item.strip()]
            return _split(pieces, joined)
    return None


def _split(pieces: list[str], joined: str = ",") -> Value:
    pieces = pieces if pieces[-1].strip() else pieces[:-1]  # Python's (3,)
    items = [_read(piece) for piece in pieces if piece.strip()]
    if not items or len(items) < len(pieces):
        return Words(re.sub(r"\s", "", joined.join(pieces)))
    if len(items) > 1 and SIGNED.search("".join(pieces)):  # `\pm 1, \pm 2` are four values
        parts = (item.items if isinstance(item, Many) and not item.brackets else (item,) for item in items)
        items = list(chain.from_iterable(parts))
    return items[0] if len(items) == 1 else _named_list(items, joined)


def _union(text: str) -> Value | None:
    pieces, _ = cut(text, CUP)
    if len(pieces) < 2:
        return None
    parts = map(_read, pieces)
    sets = (
        Many("{}", part.items) if isinstance(part, Many) and not part.brackets else part for part in parts
    )
    return Many("", tuple(sets), "union")


def _bracketed(text: str) -> Value | None:
    """The content of one pair of brackets around the whole text."""
    found = enclosed(text)
    if found is None:
        return None
    opens, inner, closes = found
    if re.fullmatch(r"\\begin\s*\{([a-z]*)\}(?:(?!\\begin|\\end).)*\\end\s*\{\1\}", inner):
        return _leaf(inner)
    if opens == "{" and (members := BUILDER.fullmatch(inner)):
        return _read(members[1])
    content = _list(inner)
    if content is None and opens == "[" and PRINTED_ARRAY.fullmatch(inner):
        content = _split(re.findall(r"\[[^\[\]]*\]|[^\s\[\]]+", inner))
    if opens == "[" and isinstance(content, Named):  # solutions `[{x: 1}, {x: 2}]`
        return content
    if content is not None and "," in inner and not isinstance(content, Many | Named | Words):
        return content
    if isinstance(content, Many) and content.joined == ",":
        return Many(opens + closes, content.items)
    if content is not None or "|" in inner or "\\mid" in inner:
        return None
    if opens + closes in ("()", "[]", "{}"):
        value = _read(inner)
        if opens == "{" and isinstance(value, Region):  # a set whose member is a set
            return Many("{}", (value,))
        return value if opens != "(" or isinstance(value, Number | Many | Named | Quantity) else None
    return None


def _named_by_colon(text: str) -> Value | None:
    """`x: 2`, as Python prints the solutions of an equation."""
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
    return Many(":", tuple(map(_read, text.split(":")))) if RATIO.fullmatch(text) else None


def _with_unit(text: str) -> Value | None:
    value, unit = split_unit(text)
    if unit is None:
        return None
    inner = _read(value)
    return None if isinstance(inner, Words | Named | Quantity) else Quantity(inner, unit)


# in the order in which they are tried; the first that applies decides
FORMS: tuple[Callable[[str], Value | None], ...] = (
    *(_words, _number, _number_with_unit, _based, _time, _named),
    *(_bracketed, _list, _union, _named_by_colon, _signed, _ratio, _with_unit),
)


def _leaf(text: str) -> Value:
    """One expression, relation or set, after all other forms; Words if no parser can read it."""
    plain = without_thousands(text)
    parsers: list[tuple[Callable[[str], Value], str]] = [(read_latex, plain)]
    if "\\" not in plain:
        parsers = [(read_python, plain), (read_python, IMPLICIT.sub(r"\1*", plain)), *parsers]
    for parse, spelling in parsers:
        try:
            return parse(spelling)
        except (TooLarge, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - any error may come from a computer algebra system given foreign text
            continue
    return Words(re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", text))
