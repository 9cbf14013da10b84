"""How a turn requests the execution of a program: the block, and the stop string that ends it.

A form is read leniently (any fence that names Python or nothing, any indentation, blank lines, CRLF) and written in one
way. A stop string inside a program ends no block. `read` is called at every stop string in order, and sees no text
after it. So a rollout that reads while it writes and a reader of the whole text decide alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from tasks.shared.traces.python_text import (
    MARKS,
    PYTHON,
    closing_marks,
    fences,
    is_closed_at,
    last_marks,
    literal_at,
    may_name_python,
    program_end,
    read_fence,
    without_indentation,
)

UNFINISHED = "it is not finished"  # the fault of a block whose end is not written


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code in a text. Places are characters of that text.

    Example: in "So <code>\\n```python\\nprint(3)\\n```\\n</code>" the form is [3, 41), the program [20, 28).
    """

    # text[start:end] is the whole form, stop string included
    start: int
    end: int
    # where its content begins: the fence, or the program of a block without one
    body: int
    # text[first:last] is the program as written
    first: int
    last: int
    # the program as it runs: without indentation of the block
    code: str
    # what its form lacks, so that it cannot run; "" for a block that can
    fault: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it holds a complete program, requested to run or not."""
        return bool(self.code) and self.fault != UNFINISHED

    def moved(self, by: int) -> "Block":
        """The same block in a text that has `by` more characters before it."""
        places = ("start", "end", "body", "first", "last")
        return replace(self, **{place: getattr(self, place) + by for place in places})


class CallForm(Protocol):
    """How a dialect writes and reads blocks."""

    @property
    def stop(self) -> str:
        """The string that ends a turn with a block."""

    @property
    def usage(self) -> str:
        """A one-line description of the form, for the notice to a model that did not follow it."""

    @property
    def marks(self) -> tuple[str, ...]:
        """The tags and fences that hold a block together."""

    def write(self, code: str) -> str:
        """A block that runs `code`."""

    def read(self, text: str) -> Block | None:
        """The block that ends `text`, which ends in the stop string; None if that is text like any other.

        None too where the stop string is part of the program of a block that is not closed yet.
        """

    def unasked(self, text: str) -> Iterator[Block]:
        """The programs in `text` that the model wrote without requesting to run them; `read` finds no block there."""

    def stray(self, text: str) -> str:
        """Return a stray mark of the form in `text`, the words after a trace's last block; "" if there is none."""


@dataclass(frozen=True, slots=True)
class TagForm:
    """A program between two tags, in a fence or without one (ReTool). A `CallForm`."""

    opening: str
    stop: str
    usage: str

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.opening, "```python", "```", self.stop)

    def write(self, code: str) -> str:
        return f"{self.opening}\n```python\n{code}\n```\n{self.stop}"

    def read(self, text: str) -> Block | None:
        before = text[: -len(self.stop)]
        start = find_opening(self.opening, before, _in_program)
        if start is None:
            return self._unopened(text, before)
        inside = start + len(self.opening)
        fence = read_fence(before, len(before) - len(before[inside:].lstrip()))
        if fence is None:
            return self._bare(text, start, inside, len(before))
        if not fence.is_python:
            return _faulty(text, start, fence.first, f"its fence says '{fence.language}'")
        closing = last_marks(before, fence.first)
        if closing is not None and is_closed_at(before, fence, closing):
            return _whole(text, start, fence.start, fence.first, closing.start())
        if literal_at(text[fence.first :], len(before) - fence.first):
            return None
        is_closed = any(closing_marks(before, fence))
        fault = "it holds more than one program" if is_closed else "its fence is not closed"
        return _faulty(text, start, fence.first, fault)

    def stray(self, text: str) -> str:
        return self.opening if self.opening in text else ""

    def unasked(self, text: str) -> Iterator[Block]:
        found = list(in_fences(text, f"{self.opening} and {self.stop} are missing around it"))
        yield from found
        start = text.rfind(self.opening)
        if start >= 0 and not any(block.end > start for block in found):
            first = start + len(self.opening)
            yield Block(start, len(text), first, first, len(text), "", UNFINISHED)

    def _unopened(self, text: str, before: str) -> Block | None:
        """A fence followed by a closing tag without an opening one; any other closing tag is plain text."""
        if not may_name_python(before):
            return None
        closing = last_marks(before, 0)
        for fence in fences(before):
            if not fence.names_python:
                continue
            if not any(closing_marks(before, fence)):
                if literal_at(text[fence.first :], len(before) - fence.first):
                    return None
            elif closing is None or not is_closed_at(before, fence, closing):
                continue
            return _faulty(text, fence.start, fence.first, f"{self.opening} is missing before it")
        return None

    def _bare(self, text: str, start: int, inside: int, stop: int) -> Block | None:
        """A block without a fence."""
        line = text.find("\n", inside, stop) + 1
        word = text[inside:line].strip()  # may be a language without its fence
        first = line if line and (not word or PYTHON.fullmatch(word)) else inside
        if literal_at(text[first:], stop - first) == "string":
            return None
        marks = last_marks(text[:stop], first)
        if marks is not None and literal_at(text[first:], marks.start() - first) != "string":
            return _faulty(text, start, first, "no fence opens where one closes")
        return _whole(text, start, first, first, stop)


@dataclass(frozen=True, slots=True)
class FenceForm:
    """A program in a fence, and the opening of the fence that its output fills (ToRL). A `CallForm`."""

    stop: str
    usage: str

    @property
    def marks(self) -> tuple[str, ...]:
        return ("```python", "```", self.stop)

    def write(self, code: str) -> str:
        return f"```python\n{code}\n```\n{self.stop}"

    def read(self, text: str) -> Block | None:
        before = text[: -len(self.stop)]
        closing = last_marks(before, 0)
        if closing is None and not may_name_python(before):
            return None
        found = list(fences(before))
        programs = [fence for fence in found if fence.names_python]
        unclosed = next((fence for fence in programs if not any(closing_marks(before, fence))), None)
        hidden = literal_at(text[unclosed.first :], len(before) - unclosed.first) if unclosed else ""
        if closing is not None and hidden != "string":
            for fence in found:
                if fence.first <= closing.start() and is_closed_at(before, fence, closing):
                    if not fence.is_python:
                        return _faulty(text, fence.start, fence.first, f"its fence says '{fence.language}'")
                    return _whole(text, fence.start, fence.start, fence.first, closing.start())
        if hidden or not programs:
            return None
        last = unclosed or programs[-1]
        fault = "its fence is not closed" if unclosed else f"{self.stop} does not follow it at once"
        return _faulty(text, last.start, last.first, fault)

    def unasked(self, text: str) -> Iterator[Block]:
        yield from in_fences(text, f"no {self.stop} follows it")

    def stray(self, text: str) -> str:
        fence = next((one for one in fences(text) if one.names_python), None)
        return text[fence.start : fence.first].strip() if fence else ""


def find_opening(tag: str, before: str, is_hidden: Callable[[str, int], bool]) -> int | None:
    """Where the last block of `before` opens: at the first tag after which every other tag is hidden in the program."""
    start = before.find(tag)
    while start >= 0:
        inside = before[start + len(tag) :]
        after = inside.find(tag)
        while after >= 0 and is_hidden(inside, after):
            after = inside.find(tag, after + 1)
        if after < 0:
            return start
        start += len(tag) + after
    return None


def _in_program(source: str, place: int) -> bool:
    """Whether `place` lies in a string of the program, or in a comment if a fence shows that it is a program."""
    hiding = ("string", "comment") if MARKS.match(source.lstrip()) else ("string",)
    return literal_at(source, place) in hiding


def in_fences(text: str, fault: str) -> Iterator[Block]:
    """The programs in fences of `text`; one whose fence is not closed goes to the end."""
    end = 0
    for fence in fences(text):
        if fence.start < end or not fence.names_python:
            continue
        closing = next(closing_marks(text, fence), None)
        stop, end = (len(text), len(text)) if closing is None else closing.span()
        last = program_end(text, fence.first, stop)
        code, lack = without_indentation(text[fence.first : last]), UNFINISHED if closing is None else fault
        yield Block(fence.start, end, fence.start, fence.first, last, code, lack)


def _whole(text: str, start: int, body: int, first: int, mark: int) -> Block:
    """The block of a program that a mark ends, or a faulty one if it holds none."""
    last = program_end(text, first, mark)
    code = without_indentation(text[first:last])
    return Block(start, len(text), body, first, last, code, "" if code.strip() else "it holds no program")


def _faulty(text: str, start: int, first: int, fault: str) -> Block:
    return Block(start, len(text), first, first, len(text), "", fault)
