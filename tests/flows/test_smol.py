"""`train/smol` with the pretrained model itself, two steps of each stage: `make test-smol` runs it.

Adapters are trained, so layers, tied head and files are those of a real model.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.shared.contract.environment import home
from tests.flows.conftest import Prefect
from tests.integration.test_lora_stages import require_base_and_adapter

MODEL = home() / "models" / "smollm2-135m-instruct"
EXACT = 1e-4  # float32: sampler and trainer on the same ids
LORA = {"rank": 8, "alpha": 16}
# After two steps no answer is right, and a group of equal rewards has no gradient.
REWARD = "def score(responses):\n    return [float(len(r['response'])) for r in responses]\n"

pytestmark = [pytest.mark.smol, pytest.mark.timeout(1200)]


def small(reward: Path) -> dict[str, Any]:
    """Overrides that make `smol` as small as it can be and still run every stage."""
    words = {"source": "words", "answer": "expression"}
    return {
        "model.path": str(MODEL),
        "data.train": [{"name": "words", "split": "train", "limit": 40, **words}],
        "data.evaluation": [{"name": "held_out", "split": "held_out", "limit": 4, **words}],
        "generation.max_response_tokens": 24,
        "synthesize.most_problems": 16,
        "sft.max_steps": 2,
        "sft.tokens_per_step": 512,
        "sft.optimizer.lora": LORA,
        "sft.optimizer.learning_rate": 1e-3,
        "rl.rounds": 1,
        "rl.steps_per_round": 2,
        "rl.prompts_per_step": 2,
        "rl.samples_per_prompt": 2,
        "rl.filter_void_turns": False,
        "rl.reward": f"{reward}:score",
        "rl.kl_coefficient": 0.01,
        "rl.optimizer.lora": LORA,
        "rl.optimizer.learning_rate": 1e-3,
        "evaluate.checkpoints": ["rl"],
    }


def test_a_pretrained_model_goes_through_every_stage(prefect: Prefect, tmp_path: Path) -> None:
    if not MODEL.is_dir():
        pytest.fail(f"{MODEL} is missing: make smol-base")
    reward = tmp_path / "length.py"
    reward.write_text(REWARD)
    run = prefect.run("train/smol", run="smol", overrides=small(reward))
    assert set(prefect.stages(run).values()) == {"Completed"}

    record, store = prefect.record("smol"), prefect.store
    sft, policy, evaluation = (record.stages[label].outputs for label in ("sft", "rl-1", "evaluate-rl"))
    for outputs, steps in ((sft, 2), (policy, 2)):
        lines = (store.fetch(outputs["checkpoint"]) / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        assert len(metrics) == steps
        assert all(line["grad_norm"] > 0 for line in metrics)
    assert all(0 < line["probe_gap"] < EXACT and line["updates"] == 1 for line in metrics)
    require_base_and_adapter(store, policy, sft["checkpoint"], rounding=5e-3)  # its logits reach 36
    assert store.manifest(evaluation["evaluation"]).metrics["held_out/problems"] == 4
