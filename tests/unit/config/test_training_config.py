"""Contradictory training settings are refused in one line with the remedy before anything starts."""

from typing import Any

import pytest

from tasks.recipes import load_recipe
from tasks.rl.config import RlConfig
from tasks.sft.spec import SftConfig, SftStage
from tasks.shared.config import ModelConfig, OptimizerConfig, TracesConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic": {"learning_rate": 1e-5}}, "rl.critic needs algorithm 'ppo', but rl.algorithm = 'grpo'"),
        (
            {"algorithm": "ppo", "rounds": 1, "steps_per_round": 5, "critic": {"warmup_steps": 5}},
            "no step is left of rounds x steps_per_round = 5 for the policy; lower it",
        ),
        ({"samples_per_prompt": 1}, "algorithm 'grpo' compares the samples of a group; use 2 or more"),
        ({"algorithm": "ppo", "samples_per_prompt": 1}, "drop_equal_rewards = true compares the samples"),
        ({"resample_attempts": 3, "drop_equal_rewards": False}, "set that to true"),
        (
            {
                "algorithm": "ppo",
                "samples_per_prompt": 1,
                "drop_equal_rewards": False,
                "resample_on_correct": True,
            },
            "set rl.samples_per_prompt to 2 or more",
        ),
        ({"objective": "gspo"}, "gives sequences equal weight: set rl.reduction = 'sequence', not 'token'"),
        (
            {"resample_format_penalty": True},
            "needs rl.resample_on_correct, whose choice it affects: set that to true",
        ),
        ({"dual_clip": 0.5}, "rl.dual_clip = 0.5: a bound of a ratio is over 1; 0 switches it off"),
        ({"sequence_mask": 1.0}, "rl.sequence_mask = 1: a bound"),
        ({"importance_cap": 0.9}, "rl.importance_cap = 0.9: a bound"),
        ({"optimizer": {"offload": True, "zero_stage": 0}}, "optimizer.offload = true needs zero_stage 1"),
    ],
)
def test_mistakes_in_rl(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + message):
        RlConfig.model_validate(settings)


def test_ppo_takes_one_sample_a_prompt() -> None:
    config = RlConfig(algorithm="ppo", samples_per_prompt=1, drop_equal_rewards=False)
    assert config.critic.learning_rate == 2e-6 and config.critic.gamma == config.critic.lam == 1.0


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_bfloat16_without_zero_is_refused(stage: str) -> None:
    overrides = {"model.dtype": "bfloat16", f"{stage}.optimizer.zero_stage": 0}
    overrides[f"{'rl' if stage == 'sft' else 'sft'}.optimizer.zero_stage"] = 2
    with pytest.raises(
        ValueError, match=rf"{stage}\.optimizer\.zero_stage = 0 needs model\.dtype = 'float32'"
    ):
        load_recipe("tiny", overrides)


def test_only_vllm_can_sleep() -> None:
    with pytest.raises(ValueError, match=r"rl\.sleep_sampler = true needs generation\.engine = 'vllm'"):
        load_recipe("tiny", {"rl.sleep_sampler": True})


def test_offload_while_sampling_requires_zero_3() -> None:
    with pytest.raises(ValueError, match=r"rl\.offload_while_sampling needs rl\.optimizer\.zero_stage = 3"):
        load_recipe("retool", {"rl.offload_while_sampling": True, "rl.optimizer.offload": True})
    assert load_recipe("retool", {"rl.offload_while_sampling": True}).rl.offload_while_sampling


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"rl.staleness": 2},
            r"rl\.staleness = 2 needs a sampler beside the trainer: set generation\.placement to 'beside'",
        ),
        (
            {"rl.staleness": 1, "rl.importance_cap": 0},
            r"rl\.staleness = 1 with rl\.importance_cap = 0: .* set rl\.importance_cap to 2",
        ),
        ({"rl.update_in_flight": True}, r"with rl\.staleness = 0: nothing is in flight"),
        (
            {"generation.placement": "beside", "generation.engine": "vllm"},
            r"'beside' needs generation\.engine = 'transformers'; for vLLM use 'pool'",
        ),
    ],
)
def test_sampling_ahead_needs_a_sampler_beside_the_trainer(
    overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe("tiny", overrides)
    taken = load_recipe("tiny", {"rl.staleness": 2, "generation.placement": "beside"})
    assert taken.rl.staleness == 2


def test_a_request_is_checked_as_the_recipe_is() -> None:
    with pytest.raises(ValueError, match=r"sft\.optimizer\.zero_stage = 0 needs"):
        SftStage(
            model=ModelConfig(source="tiny", dtype="bfloat16"),
            traces=TracesConfig(),
            sft=SftConfig(optimizer=OptimizerConfig(zero_stage=0)),
        )
