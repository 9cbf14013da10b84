r"""Brackets in an answer: where they close, what stands between them, and cuts outside of all. Text alone."""

import re

PAIRS = {
    "(": ")",
    "[": "]",
    "\\{": "\\}",
    "\\langle": "\\rangle",
    "\\lbrace": "\\rbrace",
    "\\lbrack": "\\rbrack",
}


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
    for opens in PAIRS:
        if text.startswith(opens):
            break
    else:
        return None
    depth, place = 0, 0
    marks = re.compile(r"\\?[\[\](){}]|\\(?:langle|rangle|lbrace|rbrace|lbrack|rbrack)")
    for found in marks.finditer(text):
        mark, place = found[0], found.end()
        depth += 1 if mark in ("(", "[", "\\{", "{", "\\langle", "\\lbrace", "\\lbrack") else -1
        if depth == 0:
            break
    closes = text[found.start() : place]
    if depth or place != len(text) or closes not in PAIRS.values():
        return None
    plain = {
        "\\{": "{",
        "\\}": "}",
        "\\langle": "(",
        "\\rangle": ")",
        "\\lbrace": "{",
        "\\rbrace": "}",
        "\\lbrack": "[",
        "\\rbrack": "]",
    }
    kinds = plain.get(opens, opens), plain.get(closes, closes)
    if (kinds[0] == "{") != (kinds[1] == "}"):
        return None
    return kinds[0], text[len(opens) : found.start()].strip(), kinds[1]


def closing(text: str, start: int) -> int:
    """The place of the bracket that closes the one at `start`; -1 if none does. Escaped brackets count as such."""
    pairs = {"{": "}", "(": ")", "[": "]"}
    opens, closes = text[start], pairs[text[start]]
    depth = 0
    for place in range(start, len(text)):
        if text[place] == opens and not _escaped(text, place):
            depth += 1
        elif text[place] == closes and not _escaped(text, place):
            depth -= 1
            if depth == 0:
                return place
    return -1


def _escaped(text: str, place: int) -> bool:
    return place > 0 and text[place - 1] == "\\"
