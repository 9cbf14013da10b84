r"""Finds the answer: the content of the last complete `\boxed{...}`, with balanced braces.

No other number of the text is ever taken as the answer: a rule such as 'last number in the last line' grades guesses.
"""

import re
from dataclasses import dataclass

# the opening of a box, an escaped character, or a brace
MARK = re.compile(r"\\+boxed\s*(\{)?|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Box:
    """The last box of a text."""

    content: str  # without the braces, stripped; "" if no box of the text is closed and filled
    closed: bool


def last_box(text: str) -> Box | None:
    r"""The last `\boxed` of `text` that is closed and not empty; without one, an open or empty box.

    None if there is no `\boxed`. One pass, so a text with many open boxes costs no more than any other.
    """
    found: Box | None = None
    last = -1
    # for each open brace the start of its box's content, None for a brace that opens no box
    opened: list[int | None] = []
    for mark in MARK.finditer(text):
        if "boxed" in mark[0]:
            found = found or Box("", closed=False)
            if mark[1]:
                opened.append(mark.end())
        elif mark[0] == "{":
            opened.append(None)
        elif mark[0] == "}" and opened:
            start = opened.pop()
            if start is not None and start > last:
                content = text[start : mark.start()].strip()
                if content:
                    found, last = Box(content, closed=True), start
                elif found is None or not found.content:
                    found = Box("", closed=True)
    return found
