"""The engine a recipe names, made from a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.generation.protocol import Generator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def make_generator(
    config: GenerationConfig,
    model_config: ModelConfig,
    checkpoint: Path,
    tokenizer: "PreTrainedTokenizerBase",
) -> Generator:
    """A generator with the checkpoint's weights. ValueError, with the remedy, if the engine cannot run here."""
    if config.engine == "vllm":
        from tasks.shared.generation.vllm_engine import VllmGenerator

        return VllmGenerator(config, model_config, checkpoint, [tokenizer.eos_token_id])
    from tasks.shared.checkpoints import load_model
    from tasks.shared.generation.transformers_engine import TransformersGenerator

    return TransformersGenerator(load_model(checkpoint, model_config), tokenizer, config.max_sequences)
