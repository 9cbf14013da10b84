"""The interpreter that runs a stage, and the process backend's errors."""

import sys
from pathlib import Path

import pytest

from tasks.launch import Run, require_runnable
from tasks.launch.backends.process import ProcessBackend, interpreter_for
from tasks.recipes import load_recipe
from tasks.rl.spec import RL

VLLM, EMBEDDED = (
    load_recipe("tiny", {"generation.engine": engine}).for_stage("rl") for engine in ("vllm", "transformers")
)


def an_interpreter(directory: Path, body: str) -> Path:
    python = directory / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    return python


def test_a_stage_that_samples_with_vllm_has_its_own_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = an_interpreter(tmp_path, 'echo "python 9; torch 8"')
    monkeypatch.setenv("TIRFLOW_VLLM_PYTHON", str(python))
    assert interpreter_for(RL.engine(VLLM)) == python
    assert {interpreter_for(engine) for engine in (RL.engine(EMBEDDED), "")} == {Path(sys.executable)}
    backend = ProcessBackend()
    assert backend.identity(RL, VLLM) == "python 9; torch 8"
    assert f"torch {__import__('torch').__version__}" in backend.identity(RL, EMBEDDED)
    assert "prefect" not in backend.identity(RL, EMBEDDED)


def test_a_missing_or_broken_interpreter_stops_a_run_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIRFLOW_VLLM_PYTHON", str(tmp_path / "nowhere"))
    recipe = load_recipe("tiny", {"generation.engine": "vllm"})
    with pytest.raises(ValueError, match=r"there is no .*nowhere: make setup-vllm .*'transformers'$"):
        require_runnable(Run("demo", recipe, store=str(tmp_path)))
    require_runnable(Run("demo", load_recipe("tiny"), store=str(tmp_path)))
    broken = an_interpreter(tmp_path, "echo no libc >&2; exit 127")
    monkeypatch.setenv("TIRFLOW_VLLM_PYTHON", str(broken))
    with pytest.raises(ValueError, match=r"does not run \(no libc\); set it up again: make setup-vllm"):
        require_runnable(Run("demo", recipe, store=str(tmp_path)))


def test_four_bits_without_bitsandbytes_are_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("tiny", {"generation.engine": "vllm", "rl.optimizer.lora": {"base": "nf4"}})
    run = Run("demo", recipe, store=str(tmp_path))
    (tmp_path / "with").mkdir()
    python = an_interpreter(tmp_path / "with", 'echo "python 9; bitsandbytes 0.50.2"')
    monkeypatch.setenv("TIRFLOW_VLLM_PYTHON", str(python))
    require_runnable(run)
    monkeypatch.setenv("TIRFLOW_VLLM_PYTHON", str(an_interpreter(tmp_path, 'echo "bitsandbytes -; numpy 2"')))
    with pytest.raises(
        ValueError, match=r"rl\.optimizer\.lora\.base = 'nf4' needs the package bitsandbytes, .*$"
    ):
        require_runnable(run)
