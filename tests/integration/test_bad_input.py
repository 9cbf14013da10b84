"""Bad input, end to end: each ends in one line that names file, key and remedy, and no data is lost.

Stages run as processes under the launcher's guard, as in a real run, forked from one that has imported what they
import; no Prefect server is needed (one test needs its absence).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tasks.launch.backends.attempt import StageFailed, run_on_backend
from tasks.launch.backends.process import ProcessBackend
from tasks.recipes import load_recipe
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.stage import StageResult
from tests.artifacts import publish
from tests.integration.stages import stage_request
from tests.preloaded.environment import interpreter

FORKED = tuple(f"tasks.{stage}.main" for stage in ("prepare", "synthesize", "evaluate"))
HELD_OUT = {"name": "held_out", "source": "tiny", "split": "held_out", "limit": 5}


def run_prepare(
    tmp_path: Path, store: Path, train: dict[str, Any], model: dict[str, Any] | None = None
) -> StageResult:
    """Run `prepare` with one training set."""
    config = {
        "model": model or {"source": "tiny", "dtype": "float32"},
        "data": {"train": [train], "evaluation": [HELD_OUT]},
    }
    return run_stage(tmp_path, "prepare", config, {}, store)


def run_stage(
    tmp_path: Path, stage: str, config: dict[str, Any], inputs: dict[str, ArtifactRef], store: Path
) -> StageResult:
    request = stage_request(tmp_path, stage, config, inputs, scratch=f"scratch/{stage}", store=store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(interpreter(FORKED)))
        return run_on_backend(request, ProcessBackend(), tmp_path / "log", lambda _: None)


def published(store: Path) -> list[Path]:
    """Every file of a store except its own housekeeping."""
    return [path for path in store.rglob("*") if path.is_file()]


def one_line(error: BaseException) -> str:
    """The message, which must be one line."""
    message = str(error)
    assert "\n" not in message
    return message


def test_recipes_that_extend_each_other_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b"\n')
    (tmp_path / "b.toml").write_text('extends = "a"\n')
    with pytest.raises(ValueError, match=r"b\.toml: key 'extends'"):
        load_recipe(str(tmp_path / "a.toml"))


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (None, ("mine", "problems.jsonl", "no file", "path")),
        (
            [{"problem": "What is 1 plus 1?", "answer": 2}, {"problem": "What is 2 plus 2?"}],
            ("row 2", "answer"),
        ),
    ],
)
def test_problem_files(tmp_path: Path, rows: list[dict[str, Any]] | None, parts: tuple[str, ...]) -> None:
    """Other mistakes in a row: tests/unit/prepare/test_rows.py."""
    path = tmp_path / "problems.jsonl"
    if rows is not None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(StageFailed) as caught:
        run_prepare(tmp_path, tmp_path / "store", {"name": "mine", "source": "file", "path": str(path)})
    message = one_line(caught.value)
    assert all(part in message for part in ("stage 'prepare'", *parts)), message
    assert published(tmp_path / "store") == []


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageResult]:
    """A store with the outputs of `prepare`, and its result. Tests copy what they damage."""
    base = tmp_path_factory.mktemp("prepared")
    train = {"name": "tiny", "source": "tiny", "split": "train", "limit": 30}
    return base / "store", run_prepare(base, base / "store", train)


def test_one_flipped_byte_in_an_artifact(tmp_path: Path, prepared: tuple[Path, StageResult]) -> None:
    store, result = prepared
    path = store / result.outputs["problems"].location / "train.parquet"
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    recipe = load_recipe("tiny")
    inputs = {name: result.outputs[name] for name in ("problems", "evaluation_sets")}
    before = published(store)
    try:
        with pytest.raises(StageFailed) as caught:
            run_stage(
                tmp_path, "synthesize", recipe.for_stage("synthesize").model_dump(mode="json"), inputs, store
            )
    finally:
        path.write_bytes(good)
    message = one_line(caught.value)
    assert all(part in message for part in ("train.parquet", "content changed", "delete", "run again")), (
        message
    )
    assert published(store) == before


def test_a_model_that_is_a_pickle(tmp_path: Path, prepared: tuple[Path, StageResult]) -> None:
    model = pickle_of(prepared, tmp_path / "model")
    with pytest.raises(StageFailed) as caught:
        run_prepare(
            tmp_path,
            tmp_path / "store",
            HELD_OUT | {"name": "t", "split": "train"},
            {"source": "path", "path": str(model)},
        )
    message = one_line(caught.value)
    assert all(part in message for part in ("pytorch_model.bin", "pickle", "safe_serialization=True")), (
        message
    )
    assert published(tmp_path / "store") == []


def test_a_checkpoint_artifact_that_is_a_pickle(tmp_path: Path, prepared: tuple[Path, StageResult]) -> None:
    store = Store(str(tmp_path / "store"))
    ref = publish(store, "checkpoint", lambda directory: pickle_of(prepared, directory))
    sets = prepared[1].outputs["evaluation_sets"]
    files = {
        path.name: path.read_bytes()
        for path in (prepared[0] / sets.location).iterdir()
        if path.name != "manifest.json"
    }
    copy = publish(store, "evaluation_sets", files)
    config = load_recipe("tiny").for_stage("evaluate").model_dump(mode="json")
    before = published(tmp_path / "store")
    with pytest.raises(StageFailed) as caught:
        run_stage(
            tmp_path, "evaluate", config, {"checkpoint": ref, "evaluation_sets": copy}, tmp_path / "store"
        )
    message = one_line(caught.value)
    assert all(part in message for part in ("pytorch_model.bin", "pickle", "safetensors")), message
    assert published(tmp_path / "store") == before


def pickle_of(prepared: tuple[Path, StageResult], directory: Path) -> Path:
    """The prepared checkpoint in `directory` with its weights as a pickle."""
    import torch

    directory.mkdir(exist_ok=True)
    source = prepared[0] / prepared[1].outputs["checkpoint"].location
    for path in source.iterdir():
        if path.suffix == ".safetensors":
            torch.save(load_file(path), directory / "pytorch_model.bin")
        elif path.name != "manifest.json":
            (directory / path.name).write_bytes(path.read_bytes())
    return directory


def test_a_disk_that_is_full_during_publication(tmp_path: Path, small_disk: Path) -> None:
    store = small_disk / "store"
    train = {"name": "tiny", "source": "tiny", "split": "train", "limit": 30}
    with pytest.raises(StageFailed) as caught:
        run_prepare(tmp_path, store, train)
    message = one_line(caught.value)
    assert all(part in message for part in ("no space left", "TIRFLOW_STORE", str(store))), message
    assert published(store) == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert run_prepare(tmp_path, store, train).metrics["train_problems"] == 30


@pytest.mark.parametrize("command", [["run", "train/tiny"], ["deploy"], ["env"]])
def test_a_server_that_is_not_running(tmp_path: Path, command: list[str]) -> None:
    environment = os.environ | {"TIRFLOW_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    result = subprocess.run(
        [sys.executable, "-m", "flows.commands.cli", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert "tirflow up" in result.stderr


def test_a_request_that_lacks_an_input(tmp_path: Path) -> None:
    config = load_recipe("tiny").for_stage("synthesize").model_dump(mode="json")
    with pytest.raises(StageFailed, match=r"stage 'synthesize' needs input '.*'; the request has: none"):
        run_stage(tmp_path, "synthesize", config, {}, tmp_path / "store")
