"""`train/tiny_vllm` end to end, with Prefect here and vLLM in its own environment: `make test-vllm` runs it.

Two DeepSpeed ranks, each with an engine of its own; PPO, since a model of four SFT steps is never right and a group of
wrong answers teaches GRPO nothing.
"""

import json

import pytest

from tests.flows.conftest import Prefect, small

EXACT = 1e-4  # float32: sampler and trainer on the same ids

pytestmark = pytest.mark.vllm


def test_the_pipeline_with_vllm_and_two_ranks(prefect: Prefect) -> None:
    """Every stage ends, the policy is updated twice, and the probe holds after each sync."""
    overrides = small(
        **{"rl.steps_per_round": 2, "rl.algorithm": "ppo", "rl.critic.learning_rate": 1e-3},
        **{"rl.drop_equal_rewards": False, "rl.filter_void_turns": False},  # every sample is wrong and void
    )
    run = prefect.run("train/tiny_vllm", run="vllm", overrides=overrides)
    assert set(prefect.stages(run).values()) == {"Completed"}
    checkpoint = prefect.store.fetch(prefect.record("vllm").output("rl-1", "checkpoint"))
    metrics = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2
    for line in metrics:
        assert 0 < line["probe_gap"] < EXACT
        assert line["gap_max"] < EXACT
        assert line["updates"] == 1
    assert metrics[1]["grad_norm"] > 0  # in the first step all rewards and values are equal
