"""A response in the terminal while it grows: prose as it comes, programs line by line in colour, outputs at once."""

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
    """Prints the parts of one response; what the marks of its dialect enclose is a program."""

    def __init__(self, console: Console, dialect: Dialect) -> None:
        self._console = console
        opening, *others = dialect.form.marks if dialect.form else ("",)
        self._opens = _line(OPENS, opening)
        self._closes = _line(CLOSES, *others)
        self._mark = _line(MARK, *dialect.marks)
        first = "".join(dict.fromkeys(mark[0] for mark in ("`", "<", *dialect.marks)))
        self._may_be_mark = re.compile(rf"\s*[{re.escape(first)}]")
        self._syntax = Syntax("", "python", background_color="default")
        self._line = ""  # not printed yet
        self._begun = False  # a part of this line is printed
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
        """The end of the response: why it ended, where that is not by itself, and the answer."""
        self._stop_status()
        self._flush()
        if trajectory.finish is FinishReason.LENGTH:
            self._console.print(f"cut off after {len(trajectory.response_ids)} tokens", style="yellow")
        elif trajectory.finish is FinishReason.SANDBOX_FAILURE:
            self._console.print("the sandbox failed under its program; ask again", style="red")
        if answer:
            self._console.print(Text.assemble(("answer: ", "bold"), (answer, "bold black on green")))

    def _words(self, piece: str) -> None:
        """A line, or a part of one, that the model wrote."""
        self._line += piece
        whole = self._line.endswith("\n")
        held = self._in_code or (not self._begun and self._may_be_mark.match(self._line))
        if held and not whole:
            return
        text, self._line = self._line, ""
        line = text.rstrip("\n")
        if not self._begun and (self._mark.match(line) or (self._in_code and self._closes.match(line))):
            self._in_code = bool(self._opens.match(line)) or (self._in_code and not self._closes.match(line))
            self._console.print(Text(line, style="dim"), soft_wrap=True)
        elif self._in_code:
            self._console.print(self._syntax.highlight(line), end="", soft_wrap=True)
        else:
            self._console.print(Text(text), end="", soft_wrap=True)
            self._begun = not whole
        if whole:
            self._begun = False

    def _output(self, part: Output) -> None:
        """What a program printed, or the notice that it did not run."""
        self._in_code = False
        style = "cyan" if part.call.ran else "red"
        observed = part.call.observation or "(nothing was printed)"
        lines = "\n".join(f"│ {line}" for line in observed.splitlines())
        self._console.print(Padding(Text(lines, style=style), (0, 0, 0, 2)))

    def _flush(self) -> None:
        """Print what is held, and end the line."""
        if self._line:
            self._words("\n")
        elif self._begun:
            self._console.print()
            self._begun = False

    def _stop_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _line(pattern: str, *marks: str) -> re.Pattern[str]:
    """A line that holds what `pattern` says, or one of the marks, and nothing else."""
    either = "|".join([pattern, *(re.escape(mark) for mark in marks if mark)])
    return re.compile(rf"\s*(?:{either})\s*$")
