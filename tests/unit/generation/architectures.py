"""A tiny random model of each architecture, made from its config, as reference for trainer and sampler."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

WINDOW = 6
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
LAYERS = ["sliding_attention", "full_attention"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "ministral": {"sliding_window": WINDOW, "layer_types": LAYERS, "head_dim": 8},
    "phi3": {"sliding_window": WINDOW},
    "starcoder2": {"sliding_window": WINDOW},
    "gemma3_text": {
        "sliding_window": WINDOW,
        "layer_types": LAYERS,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 3.0,
    },
    "granite": {"logits_scaling": 6.0, "residual_multiplier": 0.3, "attention_multiplier": 0.2},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "sliding_window": WINDOW, "layer_types": LAYERS},
    "stablelm": {},
    "olmo": {"num_key_value_heads": 4},  # as many as query heads
    "olmo2": {},
    "olmo3": {"sliding_window": WINDOW, "layer_types": LAYERS},
    "smollm3": {},
    "exaone4": {"sliding_window": WINDOW, "layer_types": LAYERS},
    "qwen3_moe": {
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "router_aux_loss_coef": 0.0,
    },
}
RECURRENT: dict[str, dict[str, Any]] = {
    name: {
        "head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_conv_kernel_dim": 4,
    }
    | more
    for name, more in {
        "qwen3_5_text": {},
        "qwen3_next": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    }.items()
}


def make_model(kind: str, vocabulary: int, **changed: Any) -> PreTrainedModel:
    """A random model of an architecture with its sliding windows and scales."""
    settings = SHAPE | {**ARCHITECTURES, **RECURRENT}[kind] | {"vocab_size": vocabulary} | changed
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # norms and biases differ between places too
    return model.eval()
