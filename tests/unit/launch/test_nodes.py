"""Stages over several hosts: valid recipes, and refusals before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from tasks.launch import Run, require_runnable
from tasks.launch.backends.choose import num_nodes, num_samplers
from tasks.recipes import STAGES, load_recipe

SPREAD = {"sft.optimizer.ranks": 4, "sft.optimizer.nodes": 2}


def test_a_recipe_says_over_how_many_hosts_a_stage_runs() -> None:
    recipe = load_recipe("tiny", SPREAD)
    assert {stage: num_nodes(recipe.for_stage(stage)) for stage in ("sft", "rl", "prepare")} == {
        "sft": 2,
        "rl": 1,
        "prepare": 1,
    }


def test_hosts_that_sample_are_beside_those_that_train() -> None:
    pool = {"generation.engine": "vllm", "generation.placement": "pool", "generation.pool.nodes": 2}
    recipe = load_recipe("tiny", pool | {"rl.optimizer.ranks": 2, "rl.optimizer.nodes": 2})
    configs = {stage: recipe.for_stage(stage) for stage in STAGES}
    nodes = {stage: (num_nodes(config), num_samplers(config)) for stage, config in configs.items()}
    assert nodes.pop("rl") == (4, 2)
    assert nodes.pop("evaluate") == (2, 1), "the first host samples too where nobody trains"
    assert set(nodes.values()) == {(1, 0)}


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        ({"engine": "transformers", "placement": "pool"}, r"needs generation\.engine = 'vllm'"),
        ({"pool.servers": 2}, r"needs generation\.placement = 'pool'"),
        (
            {"placement": "pool", "pool.addresses": ["10.0.0.1:8000"]},
            r"'10\.0\.0\.1:8000' is not http://host:port",
        ),
        ({"placement": "pool", "pool.addresses": ["http://10.0.0.1:8000"]}, "needs key_variable"),
        (
            {
                "placement": "pool",
                "pool.addresses": ["http://10.0.0.1:8000"],
                "pool.key_variable": "KEY",
                "pool.servers": 2,
            },
            r"pool\.servers is for servers that the stage starts",
        ),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(overrides: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        load_recipe(
            "tiny", {f"generation.{key}": value for key, value in ({"engine": "vllm"} | overrides).items()}
        )


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        ({"rl.sleep_sampler": True}, "a pool has GPUs of its own"),
        ({"rl.optimizer.ranks": 2, "rl.optimizer.nodes": 2}, "needs hosts that sample"),
    ],
)
def test_a_trainer_that_excludes_a_pool_is_refused(overrides: dict[str, Any], remedy: str) -> None:
    pool = {"generation.engine": "vllm", "generation.placement": "pool"}
    with pytest.raises(ValueError, match=remedy):
        load_recipe("tiny", pool | overrides)


def test_ranks_are_spread_evenly() -> None:
    with pytest.raises(ValueError, match=r"ranks = 4 cannot be spread evenly over optimizer\.nodes = 3"):
        load_recipe("tiny", SPREAD | {"sft.optimizer.nodes": 3})


def test_several_hosts_need_a_shared_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIRFLOW_BACKEND", "process")
    monkeypatch.setenv("TIRFLOW_SHARED", str(tmp_path / "absent"))
    run = Run("demo", load_recipe("tiny", SPREAD), store=str(tmp_path))
    with pytest.raises(ValueError, match="absent' must be a directory that all GPU hosts share"):
        require_runnable(run)
    (tmp_path / "absent").mkdir()
    require_runnable(run)
