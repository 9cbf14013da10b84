r"""Where the answer stands: the content of the last whole `\boxed{...}`, with its braces balanced.

Strict: no other number of the text is ever taken for the answer ('last number in the last line' grades guesses).
"""

import re
from dataclasses import dataclass

# what opens a box, a character that a backslash takes its meaning from, or a brace
MARK = re.compile(r"\\+boxed\s*(\{)?|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Box:
    """The last box of a text."""

    content: str  # without the braces, stripped; "" if no box of the text is closed and filled
    closed: bool


def last_box(text: str) -> Box | None:
    r"""The last `\boxed` of `text` that is closed and holds something; an open or empty one only if there is no such.

    None if there is no `\boxed`. One pass, so a text of many open boxes costs no more than another.
    """
    found: Box | None = None
    last = -1
    opened: list[
        int | None
    ] = []  # of each open brace: where its box's content starts; None if it is no box's
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
