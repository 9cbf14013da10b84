"""Prints a growing response in the terminal: prose as it comes, programs line by line in colour, outputs whole."""

import re

from rich.console import Console
from rich.padding import Padding
from rich.status import Status
from rich.syntax import Syntax
from rich.text import Text

from tasks.serve.parts import Output, Part, Runs, Words
from tasks.shared.traces.dialect import Dialect
from tasks.shared.traces.trajectory import FinishReason, Trajectory

OPENS = r"```\s*(?:python|py)\b.*"
CLOSES = r"```\w*"
MARK = r"```.*|</?think>"


class Printer:
    """Prints the parts of one response. Text between the marks of its dialect is a program."""

    def __init__(self, console: Console, dialect: Dialect) -> None:
        self._console = console
        opening, *others = dialect.form.marks if dialect.form else ("",)
        self._opens = _line(OPENS, opening)
        self._closes = _line(CLOSES, *others)
        self._mark = _line(MARK, *dialect.marks)
        first = "".join(dict.fromkeys(mark[0] for mark in ("`", "<", *dialect.marks)))
        self._may_be_mark = re.compile(rf"\s*[{re.escape(first)}]")
        self._syntax = Syntax("", "python", background_color="default")
        self._line = ""  # text that is not printed yet
        self._line_begun = False  # a part of this line is printed
        self._in_code = False
        self._status: Status | None = None

    def show(self, part: Part) -> None:
        """Print one part."""
        if isinstance(part, Words):
            for piece in re.findall(r"[^\n]*\n|[^\n]+", part.text):
                self._words(piece)
        elif isinstance(part, Runs):
            self._flush()
            self._status = self._console.status("running")
            self._status.start()
        else:
            self._stop_status()
            self._flush()
            self._output(part)

    def end(self, trajectory: Trajectory, answer: str) -> None:
        """Print the answer, and why the response ended if it did not end by itself."""
        self._stop_status()
        self._flush()
        if trajectory.finish is FinishReason.LENGTH:
            self._console.print(f"cut off after {len(trajectory.response_ids)} tokens", style="yellow")
        elif trajectory.finish is FinishReason.SANDBOX_FAILURE:
            self._console.print("the sandbox failed under its program; ask again", style="red")
        if answer:
            self._console.print(Text.assemble(("answer: ", "bold"), (answer, "bold black on green")))

    def _words(self, piece: str) -> None:
        """Print a line that the model wrote, or a part of one."""
        self._line += piece
        is_whole = self._line.endswith("\n")
        is_held = self._in_code or (not self._line_begun and self._may_be_mark.match(self._line))
        if is_held and not is_whole:
            return
        text, self._line = self._line, ""
        line = text.rstrip("\n")
        closes = self._in_code and bool(self._closes.match(line))
        if not self._line_begun and (closes or self._mark.match(line)):
            self._in_code = bool(self._opens.match(line)) or (self._in_code and not closes)
            self._console.print(Text(line, style="dim"), soft_wrap=True)
        elif self._in_code:
            self._console.print(self._syntax.highlight(line), end="", soft_wrap=True)
        else:
            self._console.print(Text(text), end="", soft_wrap=True)
        self._line_begun = not is_whole

    def _output(self, part: Output) -> None:
        """Print the output of a program, or the notice that it did not run."""
        self._in_code = False
        style = "cyan" if part.call.ran else "red"
        observed = part.call.observation or "(nothing was printed)"
        lines = "\n".join(f"│ {line}" for line in observed.splitlines())
        self._console.print(Padding(Text(lines, style=style), (0, 0, 0, 2)))

    def _flush(self) -> None:
        """Print the held text, and end the line."""
        if self._line:
            self._words("\n")
        elif self._line_begun:
            self._console.print()
            self._line_begun = False

    def _stop_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _line(pattern: str, *marks: str) -> re.Pattern[str]:
    """Compile a pattern for lines that consist of `pattern` or of one of the marks."""
    either = "|".join([pattern, *(re.escape(mark) for mark in marks if mark)])
    return re.compile(rf"\s*(?:{either})\s*$")
