"""bfloat16, packed attention and DeepSpeed on the device, against float32 on the CPU; sampler and trainer agree."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.random_work import random_experience
from tasks.rl.config import RlConfig
from tasks.rl.probe import probe
from tasks.rl.update import PolicyUpdate
from tasks.sft.training import train_step
from tasks.shared.config import OptimizerConfig
from tasks.shared.generation.protocol import Sampling
from tasks.shared.generation.transformers_engine import TransformersGenerator
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.logprobs import token_logprobs, use_packed_attention
from tasks.shared.learning.packing import pack
from tests.unit.generation.pieces import drain
from tests.unit.generation.tiny import tiny_model, tiny_tokenizer
from tests.unit.learning.sequences import random_sequences

pytestmark = pytest.mark.gpu

VOCABULARY = 97
LENGTHS = [17, 3, 40, 25, 8, 31]
HALF_PRECISION = 0.1  # of a log-prob in bfloat16, whose steps at 4 are 1/64


def half(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    return model.to(device=device, dtype=torch.bfloat16)


def make_engine(device: torch.device, zero_stage: int, vocabulary: int = VOCABULARY) -> TrainingEngine:
    config = OptimizerConfig.model_validate({"learning_rate": 3e-3, "zero_stage": zero_stage})
    return TrainingEngine(half(tiny_model(vocabulary), device), config, total_steps=20)


def test_packed_bfloat16_attention_gives_the_logprobs_of_float32(device: torch.device) -> None:
    reference, model = tiny_model(VOCABULARY), half(tiny_model(VOCABULARY), device)
    for each in (reference, model):
        use_packed_attention(each)
    sequences = random_sequences(LENGTHS, VOCABULARY)
    for row in pack(sequences, row_tokens=64):
        found = token_logprobs(model, row.to(device))
        assert found.device.type == device.type
        torch.testing.assert_close(found.cpu(), token_logprobs(reference, row), rtol=0, atol=HALF_PRECISION)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_bfloat16_sft_lowers_the_loss(device: torch.device, zero_stage: int) -> None:
    engine = make_engine(device, zero_stage)
    assert engine.device.type == device.type
    sequences = random_sequences(LENGTHS, VOCABULARY)
    losses = [train_step(engine, sequences, row_tokens=64).loss for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]


def test_sampler_and_trainer_agree_after_an_update(device: torch.device) -> None:
    tokenizer = tiny_tokenizer()
    vocabulary = len(tokenizer)
    engine = make_engine(device, zero_stage=1, vocabulary=vocabulary)
    generator = TransformersGenerator(half(tiny_model(vocabulary, seed=9), device), tokenizer, 4)
    update = PolicyUpdate(engine, RlConfig(tokens_per_micro_batch=256), None, max_response_tokens=64)
    before = {name: tensor.clone() for name, tensor in engine.weights()}
    result = update.update(random_experience(8, 64, vocabulary), seed=0)
    assert np.isfinite(result.grad_norm) and result.num_updates == 1
    assert any(not torch.equal(tensor, before[name]) for name, tensor in engine.weights())
    generator.load_weights(engine.weights())
    sampled = sample(generator, num_requests=6)
    assert probe(engine, generator, sampled, HALF_PRECISION, 256).mean < HALF_PRECISION


def sample(generator: TransformersGenerator, num_requests: int) -> list[list[int]]:
    """Prompt and response ids of a few requests, more than the engine's slots."""
    prompts = {str(n): list(range(20, 25 + n)) for n in range(num_requests)}
    for seed, (name, ids) in enumerate(prompts.items()):
        generator.add(name, ids, sampling=Sampling(), seed=seed, stop=None, max_new_tokens=12)
    sequences = [prompts[name] + list(piece.ids) for name, piece in drain(generator).items()]
    assert len(sequences) == num_requests
    return sequences
