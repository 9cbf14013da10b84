"""vLLM on a GPU: bfloat16, weights updated in memory, the trainer's log-probs. `tests/vllm` is for the CPU build."""

from pathlib import Path

import pytest
import torch

from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.rl.probe import BOUNDS, probe
from tasks.shared.config import GenerationConfig, ModelConfig, OptimizerConfig, TinyModel
from tasks.shared.learning.checkpoints import load_model, load_tokenizer
from tasks.shared.learning.engine import TrainingEngine

pytest.importorskip("vllm", reason="vLLM is not installed here")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="vLLM's GPU build needs a GPU; none was seen"),
]


def test_weights_reach_a_woken_engine_in_bfloat16(tmp_path: Path) -> None:
    from tasks.shared.generation.vllm_engine import VllmGenerator

    for seed, name in enumerate(("sampled", "trained")):
        make_tiny_checkpoint(TinyModel(), seed, tmp_path / name)
    model_config = ModelConfig(source="tiny", dtype="bfloat16")
    tokenizer = load_tokenizer(tmp_path / "sampled")
    config = GenerationConfig(engine="vllm", max_sequences=8, max_prompt_tokens=64, max_response_tokens=64)
    generator = VllmGenerator(
        config, model_config, tmp_path / "sampled", [tokenizer.eos_token_id], can_sleep=True
    )
    trained = load_model(tmp_path / "trained", model_config).to("cuda")
    engine = TrainingEngine(trained, OptimizerConfig(zero_stage=1), total_steps=1)
    generator.load_weights(engine.weights())
    sequences = [list(range(40, 40 + n)) for n in (5, 17, 30)]
    assert probe(engine, generator, sequences, bound=BOUNDS["bfloat16"], row_tokens=256).largest < 0.5
    free, total = torch.cuda.mem_get_info()
    generator.sleep()
    assert torch.cuda.mem_get_info()[0] - free > 0.5 * config.gpu_memory_utilization * total
    generator.load_weights(engine.weights())
    assert probe(engine, generator, sequences, bound=BOUNDS["bfloat16"], row_tokens=256).largest < 0.5
