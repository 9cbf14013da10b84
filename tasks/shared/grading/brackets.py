r"""Brackets in an answer: where they close, what they enclose, and cuts outside all of them. Works on text alone."""

import re
from itertools import accumulate

OPENING = ("(", "[", "\\{", "\\langle", "\\lbrace", "\\lbrack")
CLOSING = (")", "]", "\\}", "\\rangle", "\\rbrace", "\\rbrack")
BRACKET = re.compile(r"\\?[\[\](){}]|\\(?:[lr]angle|[lr]brace|[lr]brack)")
ASCII = {"\\langle": "(", "\\rangle": ")", "\\lbrack": "[", "\\rbrack": "]"}
ASCII |= {"\\{": "{", "\\}": "}", "\\lbrace": "{", "\\rbrace": "}"}


def cut(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """`text` cut at each `separator` that stands outside all brackets, and the separators."""
    pieces, separators, start, depth, place = [], [], 0, 0, 0
    while place < len(text):
        if text[place] in "([{":
            depth += 1
        elif text[place] in ")]}":
            depth -= 1
        elif depth == 0 and (found := separator.match(text, place)) and found.end() > place:
            pieces.append(text[start:place])
            separators.append(found[0])
            start = place = found.end()
            continue
        place += 1
    return [*pieces, text[start:]], separators


def enclosed(text: str) -> tuple[str, str, str] | None:
    """The opening bracket, what it encloses and the closing one, in ASCII; None unless one pair encloses all."""
    marks = list(BRACKET.finditer(text))
    depths = list(accumulate(1 if mark[0] in (*OPENING, "{") else -1 for mark in marks))
    if 0 not in depths:
        return None
    first, last = marks[0], marks[depths.index(0)]
    if first.start() or first[0] not in OPENING or last.end() != len(text) or last[0] not in CLOSING:
        return None
    opens, closes = (ASCII.get(mark[0], mark[0]) for mark in (first, last))
    if (opens == "{") != (closes == "}"):
        return None
    return opens, text[first.end() : last.start()].strip(), closes


def closing(text: str, start: int) -> int:
    """The place of the bracket that closes the one at `start`; -1 if none does. Escaped brackets do not count."""
    pair = text[start] + {"{": "}", "(": ")", "[": "]"}[text[start]]
    depth = 0
    for mark in re.compile(rf"(?<!\\)[{re.escape(pair)}]").finditer(text, start):
        depth += 1 if mark[0] == pair[0] else -1
        if depth == 0:
            return mark.start()
    return -1
