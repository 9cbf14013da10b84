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
        (["plan", "tiny", "--gpus", "8", "--memory-gib", "nan"], "Invalid value for '--memory-gib'"),
        (
            ["plan", "tiny", "--gpus", "8", "--gpu", "h100", "--tail", "0"],
            "tail = 0, call = 1 s: give a tail",
        ),
        (["artifacts", "gc", "--hours", "inf"], "gc: --trainer-states and --hours must"),
        (["recipes", "nothing"], "recipe 'nothing': no file"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    caught = capsys.readouterr()
    assert caught.out == "" and message in caught.err and caught.err.count("\n") == 1


def test_without_a_command_the_help_is_all(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["artifacts"]):
        assert main(arguments) == 2
        caught = capsys.readouterr()
        assert "Usage: tirflow" in caught.out and caught.err == ""


def test_a_home_that_cannot_be_used_is_named_with_its_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TIRFLOW_HOME", str(tmp_path / "file"))
    assert main(["up"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"TIRFLOW_HOME = {tmp_path}/file must be a directory" in error


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
