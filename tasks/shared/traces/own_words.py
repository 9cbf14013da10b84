"""The model's own words: a response without programs and their output. Only these words are graded.

A program is removed whether or not it ran, such as a block after the call cap. Feedback that the model wrote itself is
removed too. One pass covers the marks of all dialects, so the cost is linear in the text.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from tasks.shared.traces.call_forms import FenceForm, TagForm
from tasks.shared.traces.dialect import DIALECTS, Dialect
from tasks.shared.traces.python_text import LITERAL, MARKS, closes, parsed, read_fence

BLANKS = re.compile(r"\s*")
# languages of fences that contain statements of the model, not programs
PROSE_FENCES = {"text", "txt", "plaintext", "latex", "tex", "math", "markdown", "md"}


@dataclass(frozen=True, slots=True)
class _Marks:
    """What opens and closes programs and outputs, in any dialect."""

    closing_tags: dict[str, str]  # by opening tag
    program_tags: frozenset[str]  # of `closing_tags` those around a program, whose strings may hold any tag
    opening: re.Pattern[str]
    closing_fence: re.Pattern[str]


@cache
def _marks(dialects: tuple[Dialect, ...]) -> _Marks:
    forms = [dialect.form for dialect in dialects if dialect.form]
    closing_tags = dict(pair for dialect in dialects for pair in dialect.enclosing_tags)
    program_tags = frozenset(form.opening for form in forms if isinstance(form, TagForm))
    opening = rf"(?P<tag>{_any_of(closing_tags)})|(?P<run>{MARKS.pattern})[ \t]*(?P<language>[\w+#-]*)[^\n`]*"
    # a fence in the middle of a line, as in a string literal, closes no block
    stop = _any_of(form.stop for form in forms if isinstance(form, FenceForm))
    tag = _any_of(closing_tags[tag] for tag in program_tags)
    closing = re.compile(
        rf"^[ \t]*(?:(?={stop})|(?>({MARKS.pattern}))(?!\w))|({MARKS.pattern})(?=[ \t\r]*$|[ \t]*(?:{tag}))",
        re.MULTILINE,
    )
    return _Marks(closing_tags, program_tags, re.compile(opening), closing)


def _any_of(texts: Iterable[str]) -> str:
    return "|".join(map(re.escape, texts))


def own_words(turns: Iterable[str]) -> str:
    """The words of all turns of the model (the pieces of a response between its feedbacks), in order."""
    marks = _marks(tuple(DIALECTS.values()))
    return "\n".join(_Turn(turn, marks).words() for turn in turns)


class _Turn:
    """One turn, and the places in it where fences may close."""

    def __init__(self, text: str, marks: _Marks) -> None:
        self._text = text
        self._marks = marks
        found = list(marks.closing_fence.finditer(text))
        self._closing = [fence.span() for fence in found]
        self._runs = [fence[1] or fence[2] or "" for fence in found]  # "" where output follows
        self._unclosed = set[str]()  # marks that nothing closes any more

    def words(self) -> str:
        """The text with each program and each output replaced by a line break."""
        kept: list[str] = []
        place = 0
        while (mark := self._marks.opening.search(self._text, place)) is not None:
            end = self._end_of_block(mark)
            kept.append(self._text[place : mark.start()])
            if end is None:  # the mark opens no program: its content counts as words
                end = self._end_of_fence(mark.end(), mark["run"])[1]
                end = end if end < len(self._text) else mark.end()
                kept.append(self._text[mark.start() : end])
            else:
                kept.append("\n")
            place = end
        kept.append(self._text[place:])
        return "".join(kept)

    def _end_of_block(self, mark: re.Match[str]) -> int | None:
        """Where the program or output that `mark` opens ends, at the latest with the turn; None if it opens none."""
        if tag := mark["tag"]:
            closing = self._marks.closing_tags[tag]
            if tag not in self._marks.program_tags:
                return self._after(closing, mark.end())
            inside = BLANKS.match(self._text, mark.end())
            if inside and (fence := read_fence(self._text, inside.end())):
                return self._after(closing, self._end_of_fence(fence.first, fence.marks)[1])
            tags = (found.span() for found in re.compile(re.escape(closing)).finditer(self._text, mark.end()))
            return self._outside_strings(mark.end(), tags)[1]
        language = mark["language"].lower()
        if language in PROSE_FENCES:
            return None
        inner, end = self._end_of_fence(mark.end(), mark["run"])
        if language:
            return end
        is_program = inner < len(self._text) and parsed(self._text[mark.end() : inner]) is not None
        return end if is_program else None

    def _end_of_fence(self, start: int, marks: str) -> tuple[int, int]:
        """Where the content from `start` in a fence of these marks ends, and where its closing fence does."""
        if marks in self._unclosed:
            return len(self._text), len(self._text)
        numbers = range(bisect_left(self._closing, (start, 0)), len(self._closing))
        ends = (n for n in numbers if not self._runs[n] or closes(marks, self._runs[n]))
        inner, end = self._outside_strings(start, (self._closing[number] for number in ends))
        if inner == len(self._text):
            self._unclosed.add(marks)
        return inner, end

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
