r"""Finds the answer: the content of the last complete `\boxed{...}`, with balanced braces.

No other number of the text is ever taken as the answer: a rule such as 'last number in the last line' grades guesses.
"""

import re

# the opening of a box, an escaped character, or a brace
MARK = re.compile(r"\\+boxed\s*(\{)?|\\.|[{}]", re.DOTALL)


def last_box(text: str) -> str | None:
    r"""The stripped content of the last `\boxed` that is closed and not empty; "" if every box is open or empty.

    None if there is no `\boxed`. One pass, so a text with many open boxes costs no more than any other.
    """
    found: str | None = None
    last = -1
    # for each open brace the start of its box's content, None for a brace that opens no box
    opened: list[int | None] = []
    for mark in MARK.finditer(text):
        if "boxed" in mark[0]:
            found = found or ""
            if mark[1]:
                opened.append(mark.end())
        elif mark[0] == "{":
            opened.append(None)
        elif mark[0] == "}" and opened:
            start = opened.pop()
            if start is not None and start > last and (content := text[start : mark.start()].strip()):
                found, last = content, start
    return found
