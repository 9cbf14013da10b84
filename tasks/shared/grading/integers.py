r"""Integer literals, as an AIME answer is written: "070", "+70", "70.0", "\text{70}", "30^\circ", "12\text{ cm}".

No expression is one, whatever its value: the problem's own formula in a box is no answer to it.
"""

import re

STYLED = re.compile(r"\\(?:text|textbf|mathbf|mathrm)\{([^{}]*)\}")
LITERAL = re.compile(
    r"(?:\\\$)?([+-]?)([0-9]{1,3}(?:(?:,|\{,\})[0-9]{3})+|[0-9]{1,400})(?:\.0*)?"
    r"\s*(?:\^\{?\\circ\}?|\\%|\\text\{[^{}0-9]*\}(?:\^\{?[0-9]\}?)?)?"  # a unit
)


def read_integer(answer: str) -> int | None:
    """The integer that `answer`, without space around it, is a literal of; None if it is none."""
    styled = STYLED.fullmatch(answer)
    found = LITERAL.fullmatch(styled[1].strip() if styled else answer)
    return int(found[1] + re.sub(r"\D", "", found[2])) if found else None
