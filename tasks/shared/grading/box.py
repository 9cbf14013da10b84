r"""Where the answer stands: the content of the last `\boxed{...}`, with its braces balanced.

Strict: no other number of the text is ever taken for the answer ('last number in the last line' grades guesses).
"""

from dataclasses import dataclass

BOX = r"\boxed"


@dataclass(frozen=True, slots=True)
class Box:
    """The last box of a text."""

    content: str  # without the braces, stripped; "" if the box is empty or not closed
    closed: bool


def last_box(text: str, max_chars: int = 2000) -> Box | None:
    r"""The last `\boxed` of `text`, or None if there is none. At most `max_chars` of its content are read."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    rest = text[start + len(BOX) : start + len(BOX) + max_chars + 16].lstrip()
    if not rest.startswith("{"):
        return Box("", closed=False)
    depth, escaped = 0, False
    for index, char in enumerate(rest):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return Box(rest[1:index].strip(), closed=True)
    return Box("", closed=False)
