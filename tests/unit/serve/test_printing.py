"""A program is in colour in every dialect, also an invented one; the text around it is not."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from tasks.serve.parts import Words
from tasks.serve.printing import Printer
from tasks.shared.traces.call_forms import TagForm
from tasks.shared.traces.dialect import DIALECTS, Dialect

TAGS = TagForm(opening="[run]", stop="[/run]", usage="Write [run], the program and [/run].")
MADE_UP = replace(DIALECTS["retool"], name="made_up", form=TAGS)
DIM, RESET = "\x1b[2m", "\x1b[0m"


@pytest.mark.parametrize("dialect", [DIALECTS["retool"], DIALECTS["torl"], MADE_UP], ids=lambda d: d.name)
def test_a_program_is_in_colour(dialect: Dialect) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80, force_terminal=True, color_system="truecolor")
    printer = Printer(console, dialect)
    for word in f"Let us see.\n{dialect.write_call('value = 6')}\nSo it is.\n".split(" "):
        printer.show(Words(word + " "))
    lines = shown.getvalue().splitlines()
    assert lines[0] == "Let us see."
    marks = [line.removeprefix(DIM).removesuffix(RESET).strip() for line in lines if line.startswith(DIM)]
    assert marks == [line for line in dialect.write_call("value = 6").split("\n") if line != "value = 6"]
    [program] = [line for line in lines if "value" in line]
    assert program.startswith("\x1b[") and not program.startswith(DIM)
    assert any(line.startswith("So it is.") for line in lines)
