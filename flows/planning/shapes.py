"""The shape of a recipe's model, without its weights: from the registry, a local config.json, or the recipe itself."""

import json
from pathlib import Path
from typing import Any

from data.models import ARCHITECTURES, ModelShape, find_model
from tasks.shared.config import ModelConfig


def find_shape(config: ModelConfig) -> ModelShape:
    """The shape of a recipe's model: from the registry, a local config.json, or the recipe itself."""
    if config.source == "hub":
        return find_model(config.id).shape
    if config.source == "tiny":
        tiny = config.tiny
        sizes = (tiny.hidden_size, tiny.layers, tiny.heads, tiny.key_value_heads, tiny.intermediate_size)
        return ModelShape(*sizes, vocabulary=tiny.vocabulary, tied=True, positions=tiny.max_positions)
    path = Path(config.path) / "config.json"
    if not path.is_file():
        raise ValueError(f"model.path: no {path}; give a save_pretrained directory")
    return shape_of(json.loads(path.read_text(encoding="utf-8")))


def shape_of(config: dict[str, Any]) -> ModelShape:
    """The shape in a config.json. ValueError for an unsupported architecture."""
    architecture: Any = config.get("model_type")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"plan supports models of type {', '.join(ARCHITECTURES)}, and this one is '{architecture}'"
        )
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise ValueError(f"plan supports no biases, and this model of type '{architecture}' has some")
    size = config.get("head_dim") or 0
    own_size = size if size * config["num_attention_heads"] != config["hidden_size"] else 0
    return ModelShape(
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        key_value_heads=config["num_key_value_heads"],
        intermediate_size=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        tied=config["tie_word_embeddings"],
        positions=config["max_position_embeddings"],
        architecture=architecture,
        head_size=own_size,
    )
