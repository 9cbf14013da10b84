"""Stages over several hosts: what a recipe may ask for, and what is refused before anything starts."""

from pathlib import Path

import pytest

from tasks.launch import Run, require_surroundings
from tasks.launch.backends import num_nodes
from tasks.shared.recipes import load_recipe

SPREAD = {"sft.optimizer.ranks": 4, "sft.optimizer.nodes": 2}


def test_a_recipe_says_over_how_many_hosts_a_stage_runs() -> None:
    recipe = load_recipe("tiny", SPREAD)
    configs = {stage: recipe.for_stage(stage).model_dump(mode="json") for stage in ("sft", "rl", "prepare")}
    assert {stage: num_nodes(stage, config) for stage, config in configs.items()} == {
        "sft": 2,
        "rl": 1,
        "prepare": 1,
    }


def test_ranks_are_spread_evenly() -> None:
    with pytest.raises(ValueError, match=r"ranks = 4 cannot be spread evenly over optimizer\.nodes = 3"):
        load_recipe("tiny", SPREAD | {"sft.optimizer.nodes": 3})


def test_without_a_directory_that_hosts_share_such_a_run_is_refused_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIRFLOW_BACKEND", "process")
    monkeypatch.setenv("TIRFLOW_SHARED", str(tmp_path / "absent"))
    run = Run("demo", load_recipe("tiny", SPREAD), store=str(tmp_path))
    with pytest.raises(ValueError, match="absent' must be a directory that all GPU hosts share"):
        require_surroundings(run)
    (tmp_path / "absent").mkdir()
    require_surroundings(run)
