"""Checkpoints: `save_pretrained` directories of safetensors and tokenizer, loaded without pickles or remote code.

Transformers and vLLM open what `save_checkpoint` writes. A mistake in a checkpoint is one line of ValueError.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from tasks.shared.config import ModelConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def load_model(checkpoint: Path, config: ModelConfig) -> "PreTrainedModel":
    """The causal language model of `checkpoint` in `config.dtype`, with `config.attention`.

    Raises:
        ValueError: no checkpoint there, weights in a pickle, damaged or incomplete weights, no flash-attention.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    _check_weights(checkpoint)
    try:
        with _quiet("transformers"):  # what it would warn of, missing weights, is an error here
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                checkpoint,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=getattr(torch, config.dtype),
                attn_implementation=config.attention,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, by name
            )
    except SafetensorError as error:
        raise ValueError(
            f"{checkpoint}: weights are damaged ({error}); run the stage that made them again"
        ) from error
    except ImportError as error:
        if config.attention != "flash_attention_2":
            raise
        raise ValueError(
            "model.attention = 'flash_attention_2' needs the package flash-attn; install it or use 'sdpa'"
        ) from error
    model, report = loaded
    # Transformers would fill these with random numbers.
    strays = sorted(report["missing_keys"]) + sorted(key[0] for key in report["mismatched_keys"])
    if strays:
        raise ValueError(
            f"{checkpoint}: weights do not fit config.json, first {strays[0]}; use a complete checkpoint"
        )
    return model


def load_tokenizer(checkpoint: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of `checkpoint`. Raises ValueError: there is none, or it has no chat template."""
    from transformers import AutoTokenizer

    if not (checkpoint / "tokenizer_config.json").is_file():
        raise ValueError(f"{checkpoint}: no tokenizer_config.json; save the tokenizer with the model")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise ValueError(f"{checkpoint}: the tokenizer has no chat template; save one with it")
    return tokenizer


def save_checkpoint(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    directory: Path,
    state_dict: "Mapping[str, torch.Tensor] | None" = None,
) -> None:
    """Write `directory` for `load_model`, Transformers and vLLM; `state_dict` where the model's own is partitioned."""
    model.save_pretrained(directory, state_dict=dict(state_dict) if state_dict is not None else None)
    tokenizer.save_pretrained(directory)


def _check_weights(checkpoint: Path) -> None:
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"{checkpoint}: no config.json; a checkpoint is a save_pretrained directory")
    if any(checkpoint.glob("*.safetensors")):
        return
    pickles = sorted(path for pattern in PICKLES for path in checkpoint.glob(pattern))
    if pickles:
        raise ValueError(
            f"{pickles[0]}: weights in a pickle, which can run code when opened; save them as safetensors"
        )
    raise ValueError(f"{checkpoint}: no *.safetensors; use a complete checkpoint")


class _quiet:
    """Errors only, from one logger, while the block runs."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
