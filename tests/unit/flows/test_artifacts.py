"""`tirflow artifacts`: every command for programs and for users; names, mistakes and damage in one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.commands.cli import main
from tasks.shared.artifacts import ArtifactRef, Store
from tests.artifacts import publish
from tests.unit.runs.test_collection import World

Answers = tuple[int, Any]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A run of two stages, and an unused artifact."""
    world = World(str(tmp_path))
    problems = world.make("problems", "1")
    world.note("demo", "prepare", {"problems": problems})
    config, metrics = {"sft": {"max_steps": 50}}, {"loss": 0.5}
    tuned = publish(
        world.store, "checkpoint", {"content": "tuned"}, {"problems": problems},
        stage="sft", config=config, seed=7, code="c1", metrics=metrics,
    )  # fmt: skip
    world.note("demo", "sft", {"checkpoint": tuned})
    world.make("checkpoint", "unused")
    return world


def ask(capsys: pytest.CaptureFixture[str], world: World, *arguments: str) -> Answers:
    """Exit code and JSON of a command. The output for users is drawn too."""
    code = main(["artifacts", *arguments, "--store", world.root])
    assert capsys.readouterr().out
    if arguments[0] in ("unpin", "gc"):
        return code, None
    assert main(["artifacts", *arguments, "--store", world.root, "--json"]) == code
    return code, json.loads(capsys.readouterr().out)


def ref(world: World, label: str, output: str) -> ArtifactRef:
    return world.records.read("demo").output(label, output)


def test_ls_show_and_lineage(capsys: pytest.CaptureFixture[str], world: World) -> None:
    _, listed = ask(capsys, world, "ls")
    needed = {row["kind"]: row["wanted_by"] for row in listed["artifacts"] if row["wanted_by"]}
    assert needed == {"problems": ["run demo"], "checkpoint": ["run demo"]} and len(listed["artifacts"]) == 3
    _, shown = ask(capsys, world, "show", "demo/sft/checkpoint")
    assert shown["metrics"] == {"loss": 0.5} and shown["provenance"]["config"] == {"sft": {"max_steps": 50}}
    _, walked = ask(capsys, world, "lineage", ref(world, "sft", "checkpoint").digest[:10])
    assert [row["kind"] for row in walked] == ["checkpoint", "problems"]
    Store(world.root).remove(ref(world, "prepare", "problems").location)
    assert ask(capsys, world, "lineage", "demo/sft/checkpoint")[1][1]["gone"]


def test_compare_names_what_differs(capsys: pytest.CaptureFixture[str], world: World) -> None:
    (other,) = [
        path for path in world.store.locations() if path not in (ref(world, "sft", "checkpoint").location,)
    ][:1]
    _, found = ask(capsys, world, "compare", other, "demo/sft/checkpoint")
    assert found["files"] == {"content": "changed"} and not found["equal_content"]
    assert "config.sft.max_steps: nothing -> 50" in found["provenance"] and found["metrics"] == {
        "loss": [None, 0.5]
    }


def test_verify_finds_a_flipped_bit(capsys: pytest.CaptureFixture[str], world: World) -> None:
    assert ask(capsys, world, "verify") == (0, {"verified": 3, "damaged": {}})
    path = world.store.fetch(ref(world, "sft", "checkpoint")) / "content"
    path.chmod(0o644)
    path.write_text("tunee")
    code, found = ask(capsys, world, "verify")
    assert code == 1 and "content changed" in found["damaged"][ref(world, "sft", "checkpoint").location]


def test_gc_is_a_dry_run_by_default(capsys: pytest.CaptureFixture[str], world: World) -> None:
    ask(capsys, world, "gc", "--hours", "0")
    assert len(world.store.locations()) == 3
    unused = next(path for path in world.store.locations() if path not in _named(world))
    ask(capsys, world, "pin", "keep", unused)
    ask(capsys, world, "gc", "--hours", "0", "--delete")
    assert len(world.store.locations()) == 3
    ask(capsys, world, "unpin", "keep")
    ask(capsys, world, "gc", "--hours", "0", "--delete")
    assert set(world.store.locations()) == _named(world)


def _named(world: World) -> set[str]:
    return {ref(world, "sft", "checkpoint").location, ref(world, "prepare", "problems").location}


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], world: World) -> None:
    for arguments, message in (
        (["show", "nothing"], "artifact 'nothing': none such"),
        (["show", "checkpoint/"], "artifact 'checkpoint/': 2 artifacts begin so"),
        (["show", "demo/rl-1/checkpoint"], "stage 'rl-1' has not finished"),
        (["unpin", "nothing"], "pin 'nothing': there is none"),
        (["gc", "--hours", "-1"], "--hours must not be below 0"),
    ):
        assert main(["artifacts", *arguments, "--store", world.root]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_what_the_command_imports_is_light() -> None:
    """Neither Prefect nor torch is imported, so a listing appears at once."""
    for module, heavy in (
        ("flows.commands.artifacts", "prefect torch"),
        ("flows.commands.cli", "prefect torch numpy upath"),
    ):
        script = f"import {module}, sys; print([n for n in {heavy.split()} if n in sys.modules])"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"
