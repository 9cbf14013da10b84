"""The model's own words: a response without programs and their output. Only these words are graded.

A program is removed whether or not it ran, such as a block after the call cap. Feedback that the model wrote itself is
removed too. One pass covers the marks of all dialects, so the cost is linear in the text.
"""

import ast
import re
from bisect import bisect_left
from collections.abc import Iterable

from tasks.shared.traces.python_text import LITERAL

MARK = re.compile(r"<(code|interpreter|tool_call|tool_response)>|```[ \t]*([\w+#-]*)[^\n`]*")
# a fence in the middle of a line, as in a string literal, does not close a block
CLOSING_FENCE = re.compile(
    r"^[ \t]*(?:(?=```output)|```(?![\w`]))|```(?=[ \t\r]*$|[ \t]*</code>)", re.MULTILINE
)
CLOSING_TAG = re.compile("</code>")
FENCE_IN_CODE = re.compile(r"\s*```[^\n]*")
# languages of fences that contain statements of the model, not programs
PROSE_FENCES = {"text", "txt", "plaintext", "latex", "tex", "math", "markdown", "md"}


def own_words(turns: Iterable[str]) -> str:
    """The words of all turns of the model (the pieces of a response between its feedbacks), in order."""
    return "\n".join(_Turn(turn).words() for turn in turns)


class _Turn:
    """One turn, and where fences may close in it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._closing = [(mark.start(), mark.end()) for mark in CLOSING_FENCE.finditer(text)]

    def words(self) -> str:
        """The text with each program and each output replaced by a line break."""
        kept: list[str] = []
        place = 0
        while (mark := MARK.search(self._text, place)) is not None:
            end = self._end_of_block(mark)
            kept.append(self._text[place : mark.start()])
            if end is None:  # the mark opens no program: its content counts as words
                end = self._end_of_fence(mark.end())[1] if mark[0].startswith("```") else mark.end()
                end = end if end < len(self._text) else mark.end()
                kept.append(self._text[mark.start() : end])
            else:
                kept.append("\n")
            place = end
        kept.append(self._text[place:])
        return "".join(kept)

    def _end_of_block(self, mark: re.Match[str]) -> int | None:
        """Where the program or output that `mark` opens ends, at the latest with the turn; None if it opens none."""
        if mark[1] and mark[1] != "code":
            return self._after(f"</{mark[1]}>", mark.end())
        if mark[1]:
            fence = FENCE_IN_CODE.match(self._text, mark.end())
            if fence is not None:
                return self._after("</code>", self._end_of_fence(fence.end())[1])
            tags = (tag.span() for tag in CLOSING_TAG.finditer(self._text, mark.end()))
            return self._outside_strings(mark.end(), tags)[1]
        language = mark[2].lower()
        if language in PROSE_FENCES:
            return None
        inner, end = self._end_of_fence(mark.end())
        if language:
            return end
        return end if inner < len(self._text) and _is_program(self._text[mark.end() : inner]) else None

    def _end_of_fence(self, start: int) -> tuple[int, int]:
        """Where the content of a fence that opened before `start` ends, and where its closing fence does."""
        first = bisect_left(self._closing, (start, 0))
        candidates = (self._closing[number] for number in range(first, len(self._closing)))
        return self._outside_strings(start, candidates)

    def _outside_strings(self, start: int, places: Iterable[tuple[int, int]]) -> tuple[int, int]:
        """The first place in no string of a program that begins at `start`, else the first, else the turn's end."""
        first, read = None, start
        for place in places:
            first = first or place
            if place[0] < read:
                continue
            before = list(LITERAL.finditer(self._text, read, place[0]))
            is_string = before and not before[-1]["comment"]
            whole = LITERAL.match(self._text, before[-1].start()) if is_string else None
            if whole is None or whole.end() <= place[0]:
                return place
            read = whole.end()
        return first or (len(self._text), len(self._text))

    def _after(self, tag: str, start: int) -> int:
        found = self._text.find(tag, start)
        return len(self._text) if found < 0 else found + len(tag)


def _is_program(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
