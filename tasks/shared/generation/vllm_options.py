"""vLLM's options, the same for the engine in this process and for the servers of a pool."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from tasks.shared.config import GenerationConfig, ModelConfig
from tasks.shared.generation.protocol import Sampling

CPU_CACHE_GIB = 2
# The prefix cache keeps whole blocks. With the CPU build's 128 tokens, an extended request would be recomputed from the
# last multiple of 128, which for short responses is all of it. Its attention takes multiples of 32.
CPU_BLOCK_TOKENS = 32


def engine_options(config: GenerationConfig, model_config: ModelConfig, checkpoint: Path) -> dict[str, Any]:
    """vLLM's engine arguments by name. ValueError if the model has too few positions for the recipe's lengths."""
    on_gpu = torch.cuda.is_available()
    # one more: scoring makes vLLM sample a token after the sequence
    num_positions = config.max_prompt_tokens + config.max_response_tokens + 1
    _require_positions(checkpoint, num_positions)
    return {
        "model": str(checkpoint),
        "dtype": model_config.dtype,
        "max_model_len": num_positions,
        "max_num_seqs": config.max_sequences,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "enable_prefix_caching": True,
        "block_size": None if on_gpu else CPU_BLOCK_TOKENS,
        # for a chunked prompt vLLM rewinds the generator of a seed, which a CPU generator cannot do
        "enable_chunked_prefill": on_gpu,
        # compiling takes minutes on the CPU, and for a tiny model longer than its decoding
        "enforce_eager": model_config.source == "tiny" or not on_gpu,
        "logprobs_mode": "processed_logprobs",  # under the distribution sampled from
        "disable_log_stats": True,
        "trust_remote_code": False,
        "generation_config": "vllm",  # the recipe decides the sampling, not the checkpoint's defaults
    }


def sampling_options(
    sampling: Sampling, seed: int, turn: int, stop: str | None, max_new_tokens: int, eos_ids: Sequence[int]
) -> dict[str, Any]:
    """vLLM's sampling parameters by name, for the `turn`-th piece of a request of this seed."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": (seed + 0x9E3779B9 * turn) % 2**31,
        "max_tokens": max_new_tokens,
        "stop": [stop] if stop else None,
        "stop_token_ids": list(eos_ids),
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,  # a stop string may be one
        "spaces_between_special_tokens": False,
        "logprobs": 0,
    }


def reason_of(finish_reason: str | None, stop_reason: int | str | None) -> Literal["stop", "eos", "length"]:
    """Translate vLLM's finish reason: `stop` with a string is a stop string, with a token id the end of turn."""
    if finish_reason == "length":
        return "length"
    assert finish_reason == "stop", f"vLLM ended a request with '{finish_reason}'"
    return "stop" if isinstance(stop_reason, str) else "eos"


def _require_positions(checkpoint: Path, needed: int) -> None:
    positions = json.loads((checkpoint / "config.json").read_text()).get("max_position_embeddings", needed)
    if positions < needed:
        raise ValueError(
            f"generation.max_prompt_tokens + max_response_tokens + 1 = {needed}, but the model has {positions} "
            f"positions (max_position_embeddings in its config.json); lower them by {needed - positions}"
        )
