"""The command `tirflow`: every command's help, mistakes in one line, completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.commands.cli import app, main


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    for arguments in ([], *([name] for name in names), ["artifacts"], ["artifacts", "gc"]):
        assert main([*arguments, "--help"]) == 0
        message = capsys.readouterr().out
        assert "Usage: tirflow " + " ".join(arguments) in message
        assert arguments or all(f" {name} " in message for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "No such command 'nothing'. See tirflow --help."),
        (["serve", "x", "--port", "99999"], "less than or equal to 65535. See tirflow --help."),
        (["plan"], "Missing argument 'recipe'. See tirflow --help."),
        (["plan", "tiny", "--gpus", "many"], "Invalid value for '--gpus'"),
        (["plan", "tiny"], "plan: give --run NAME, or --gpus and --memory-gib"),
        (["recipes", "nothing"], "recipe 'nothing': no file"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    caught = capsys.readouterr()
    assert caught.out == "" and message in caught.err and caught.err.count("\n") == 1


def test_recipes_are_listed_and_resolved(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    assert "ReTool with LoRA" in capsys.readouterr().out
    assert main(["recipes", "tiny"]) == 0
    assert '"dialect": "retool"' in capsys.readouterr().out


def test_the_shell_completes_a_recipe() -> None:
    """The installed command completes for bash."""
    completion = {
        "_TIRFLOW_COMPLETE": "complete_bash",
        "COMP_WORDS": "tirflow plan tiny_t",
        "COMP_CWORD": "2",
    }
    command = str(Path(sys.executable).with_name("tirflow"))
    done = subprocess.run([command], capture_output=True, text=True, env=os.environ | completion)
    assert done.stdout.split() == ["tiny_text", "tiny_torl"]
