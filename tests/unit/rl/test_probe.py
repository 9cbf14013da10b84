"""The probe on real engines: silent when the weights are equal, loud and specific when one tensor is stale."""

import pytest
import torch

from tasks.rl.probe import WeightsDiffer, probe
from tasks.shared.config import OptimizerConfig
from tasks.shared.generation.transformers_engine import TransformersGenerator
from tasks.shared.learning.engine import TrainingEngine
from tests.unit.generation.tiny import CORPUS, tiny_model, tiny_tokenizer


def test_probe_holds_after_a_sync_and_names_a_stale_tensor() -> None:
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer()
    engine = TrainingEngine(
        tiny_model(len(tokenizer), tied=False), OptimizerConfig(zero_stage=0), total_steps=1
    )
    sampler = tiny_model(len(tokenizer), tied=False, seed=9)
    generator = TransformersGenerator(sampler, tokenizer, 2)
    sequences = [tokenizer.encode(text) for text in CORPUS]
    with pytest.raises(WeightsDiffer, match=r"rl.probe_bound = 0\.05; tensors that differ: "):
        probe(engine, generator, sequences, 0.05, 1000)
    generator.load_weights(engine.weights())
    assert probe(engine, generator, sequences, 1e-4, 1000) < 1e-5
    with torch.no_grad():
        sampler.lm_head.weight.mul_(1.2)  # a head that stays behind, as with vLLM's tied embeddings
    with pytest.raises(WeightsDiffer, match=r"tensors that differ: lm_head\.weight$"):
        probe(engine, generator, sequences, 1e-4, 1000)
