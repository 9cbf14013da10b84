"""Finds programs in a model's text: fences, string literals, indentation. Knows Python and Markdown, but no dialect.

A fence or a tag inside a string literal belongs to the program. Literals are found as Python's lexer finds them, but in
text that may be incomplete or invalid, because it is read while the model writes.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

LITERAL = re.compile(
    r"""
    (?P<comment> \#[^\n]* )
    | (?P<triple> \"\"\" | ''' ) (?: \\. | (?!(?P=triple)). )* (?: (?P=triple) | \Z )
    | (?P<quote> ["'] ) (?: \\. | (?!(?P=quote))[^\\\n] )* (?P=quote)?
    """,
    re.VERBOSE | re.DOTALL,
)
MARKS = re.compile(r"`{3,}|~{3,}")
NAME = r"(?:i?python|py)[\d.]*"
PYTHON = re.compile(rf"{NAME}(?::[\w./-]+)?", re.IGNORECASE)
# attributes as in Pandoc and R Markdown: `{.python .numberLines}`, `{python, echo=FALSE}`, `python {cmd=true}`
ATTRIBUTES = re.compile(rf"\s*(?:\{{\s*\.?)?({NAME})(?:\s*[\s,{{][^{{}}\n]*)?\}}\s*", re.IGNORECASE)
LANGUAGE = re.compile(r"[A-Za-z][\w+#.-]*")
NAMING = re.compile(r"[`~]{3}[^\n]*?py", re.IGNORECASE)
MAX_LINE = 1000  # characters of it that may name a language
LINE_START = re.compile(r"[ \t]*(?:(?:[-*+>]|\d+[.)])[ \t]+)?")


@dataclass(frozen=True, slots=True)
class Fence:
    """An opening fence in a text."""

    start: int
    first: int  # of the program behind it
    marks: str
    language: str  # "" where it names none

    @property
    def is_python(self) -> bool:
        """Whether the program may be Python: the fence says so, or says nothing."""
        return not self.language or self.names_python

    @property
    def names_python(self) -> bool:
        """Whether the fence says that the program is Python."""
        return PYTHON.fullmatch(self.language) is not None


def closes(opening: str, run: str) -> bool:
    """Whether a run of marks closes a fence that `opening` opened."""
    return run[0] == opening[0] and len(run) >= len(opening)


def read_fence(text: str, start: int) -> Fence | None:
    """The fence that opens at `start`, None if none does. What follows the language on its line is program."""
    run = MARKS.match(text, start)
    if run is None:
        return None
    end = text.find("\n", run.end())
    below = len(text) if end < 0 else end + 1
    line = text[run.end() : min(below, run.end() + MAX_LINE)]
    if attributes := ATTRIBUTES.fullmatch(line):
        return Fence(start, below, run[0], attributes[1])
    language, *program = line.split(maxsplit=1) or [""]
    if program and PYTHON.fullmatch(language):
        return Fence(start, run.end() + line.index(language) + len(language), run[0], language)
    if not language or (not program and (PYTHON.fullmatch(language) or LANGUAGE.fullmatch(language))):
        return Fence(start, below, run[0], language)
    return Fence(start, run.end(), run[0], "")


def may_name_python(text: str) -> bool:
    """False if no fence in `text` names Python. Quick, because it is asked at every stop string."""
    return "py" in text.lower() and NAMING.search(text) is not None


def fences(text: str) -> Iterator[Fence]:
    """Every place in `text` where a fence may open: at the start of a line, or anywhere if it names Python."""
    for run in MARKS.finditer(text):
        fence = read_fence(text, run.start())
        assert fence is not None
        line = text.rfind("\n", 0, run.start()) + 1
        if fence.names_python or LINE_START.fullmatch(text, line, run.start()):
            yield fence


def literal_at(source: str, place: int) -> str:
    """The kind of literal that covers `place` in the program `source`: "string", "comment" or "" for none."""
    for literal in LITERAL.finditer(source):
        if literal.start() >= place:
            break
        if literal.end() > place:
            return "comment" if literal["comment"] else "string"
    return ""


def closing_marks(text: str, fence: Fence) -> Iterator[re.Match[str]]:
    """The runs of marks that close `fence` and lie outside the literals of its program."""
    hidden = [literal.span() for literal in LITERAL.finditer(text, fence.first)]
    for run in MARKS.finditer(text, fence.first):
        if closes(fence.marks, run[0]) and not any(start <= run.start() < end for start, end in hidden):
            yield run


def last_marks(text: str, first: int) -> re.Match[str] | None:
    """The run of fence marks that ends `text`, blanks aside, if it begins at `first` or later."""
    tail = text.rstrip()
    mark = tail[-1:]
    return MARKS.fullmatch(tail, max(first, len(tail.rstrip(mark)))) if mark in ("`", "~") else None


def is_closed_at(text: str, fence: Fence, closing: re.Match[str]) -> bool:
    """Whether the program of `fence` ends at `closing`: the first matching marks outside of strings."""
    if not closes(fence.marks, closing[0]):
        return False
    if literal_at(text[fence.first :], closing.start() - fence.first) == "string":
        return False
    return all(run.start() >= closing.start() for run in closing_marks(text, fence))


def program_end(text: str, first: int, mark: int) -> int:
    """Where the program from `first` to a closing mark ends, without the line break before the mark."""
    line = text.rfind("\n", first, mark) + 1
    if line == 0 or text[line:mark].strip():
        return mark
    return max(first, line - (2 if text[first:line].endswith("\r\n") else 1))


def without_indentation(program: str) -> str:
    """Remove the indentation of a program's first line from every line, because no program can start indented."""
    lines = program.split("\n")
    first = next((line for line in lines if line.strip()), "")
    indentation = first[: len(first) - len(first.lstrip())]
    return "\n".join(line.removeprefix(indentation) for line in lines)


def parsed(program: str) -> ast.Module | None:
    """The syntax tree of a program, None if Python cannot parse it."""
    try:
        return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
