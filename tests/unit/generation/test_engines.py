"""Engines by name, from a checkpoint on disk."""

import importlib.util
from pathlib import Path

import pytest

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.generation.engines import make_generator
from tasks.shared.learning.checkpoints import load_tokenizer, save_checkpoint
from tests.unit.generation.tiny import tiny_model, tiny_tokenizer

MODEL = ModelConfig(source="path", path="/unused", dtype="float32")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tokenizer = tiny_tokenizer()
    save_checkpoint(tiny_model(len(tokenizer)), tokenizer, tmp_path)
    return tmp_path


def test_the_transformers_engine_scores_with_the_checkpoints_weights(checkpoint: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    generator = make_generator(
        GenerationConfig(engine="transformers", max_sequences=2), MODEL, checkpoint, tokenizer
    )
    vocabulary = len(tiny_tokenizer())  # loading may add a token without a row in the model
    other = tiny_model(vocabulary, seed=1)
    ids = tokenizer.encode("print(1 + 2)")
    before = generator.score([ids])
    generator.load_weights(other.named_parameters())
    assert generator.score([ids]) != before
    generator.load_weights(tiny_model(vocabulary).named_parameters())
    assert generator.score([ids]) == before


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is not None, reason="vLLM is installed: nothing is missing"
)
def test_missing_vllm_is_refused_with_the_remedy(checkpoint: Path) -> None:
    with pytest.raises(
        ValueError, match=r"generation\.engine = 'vllm' but .* set generation\.engine = 'transformers'"
    ):
        config = GenerationConfig(engine="vllm", max_prompt_tokens=64, max_response_tokens=64)
        make_generator(config, MODEL, checkpoint, load_tokenizer(checkpoint))
