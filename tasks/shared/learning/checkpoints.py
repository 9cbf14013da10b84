"""Checkpoints: `save_pretrained` directories of safetensors and tokenizer, loaded without pickles or remote code.

Transformers and vLLM open the output of `save_checkpoint`. A mistake in a checkpoint is a ValueError of one line.
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from tasks.shared.config import ModelConfig
from tasks.shared.learning.checkpoint_files import (
    has_chat_template,
    head_differs,
    refuse_pointers,
    require_files,
)
from tasks.shared.traces.text_ids import text_ids
from tasks.shared.traces.turns import stop_ids, turn_end

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

SENTENCE = "Compute 2 + 3."


def load_model(checkpoint: Path, config: ModelConfig) -> "PreTrainedModel":
    """The causal language model of `checkpoint` in `config.dtype`, with `config.attention`.

    Raises:
        ValueError: see `open_model`; NaN in the weights, a tied head that is not its embedding.
    """
    model = open_model(checkpoint, config)
    _require_weights(model, checkpoint)
    return model


def open_model(checkpoint: Path, config: ModelConfig, device: str | None = None) -> "PreTrainedModel":
    """The model as its files have it. On the device "meta" without reading weights: whether they fit config.json.

    Raises:
        ValueError: no checkpoint there, weights in a pickle, damaged or incomplete weights, no flash-attention, an
            architecture that is not Transformers' own.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    require_files(checkpoint)
    try:
        with _quiet():  # it would only warn of missing weights, which are an error here
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                checkpoint,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=getattr(torch, config.dtype),
                attn_implementation=config.attention,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                device_map=device,
            )
    except SafetensorError as error:
        raise ValueError(
            f"{checkpoint}: weights are damaged ({error}); run the stage that made them again"
        ) from error
    except (ImportError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, ImportError) and config.attention == "flash_attention_2":
            raise ValueError(
                "model.attention = 'flash_attention_2' needs the package flash-attn; install it or use 'sdpa'"
            ) from error
        # of foreign files: remote code, an unknown architecture, weights in four bits, a contradictory config.json
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{checkpoint}: its model cannot be opened ({said}); use an undamaged one of an architecture that "
            "Transformers has"
        ) from error
    model: PreTrainedModel = loaded[0]
    report = loaded[1]
    # Transformers would fill these with random numbers.
    strays = sorted(report["missing_keys"]) + sorted(key[0] for key in report["mismatched_keys"])
    if strays:
        raise ValueError(
            f"{checkpoint}: weights do not fit config.json, first {strays[0]}; use a complete checkpoint"
        )
    return model


def load_tokenizer(checkpoint: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of `checkpoint`.

    Raises ValueError if there is none, it has no chat template, it encodes a sentence as nothing, or no id ends a turn.
    """
    from transformers import AutoTokenizer

    if not (checkpoint / "tokenizer_config.json").is_file():
        raise ValueError(f"{checkpoint}: no tokenizer_config.json; save the tokenizer with the model")
    refuse_pointers(checkpoint)
    if not has_chat_template(checkpoint):
        raise ValueError(
            f"{checkpoint}: its tokenizer has no chat template; use an instruction-tuned model or save a "
            "chat_template with the tokenizer"
        )
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    except Exception as error:  # of a foreign tokenizer's file: the library raises bare Exceptions too
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{checkpoint}: its tokenizer cannot be opened ({said}); save it again") from error
    if not text_ids(tokenizer, SENTENCE):
        raise ValueError(
            f"{checkpoint}: its tokenizer makes no token of '{SENTENCE}'; its files are incomplete, save it again"
        )
    turn_end(tokenizer)
    return tokenizer


def save_checkpoint(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    directory: Path,
    state_dict: "Mapping[str, torch.Tensor] | None" = None,
) -> None:
    """Write `directory` for `load_model`, Transformers and vLLM; `state_dict` where the model's own is partitioned."""
    ends = stop_ids(tokenizer, model.config.get_text_config(), model.generation_config)
    model.generation_config = clean_generation_config(model.generation_config, ends)
    model.save_pretrained(directory, state_dict=dict(state_dict) if state_dict is not None else None)
    tokenizer.save_pretrained(directory)


def has_experts(checkpoint: Path) -> bool:
    """Whether the model of `checkpoint` is a mixture of experts."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False).get_text_config().to_dict()
    # num_experts, num_local_experts, n_routed_experts, ...: each architecture has a name of its own
    return any(
        "experts" in name and "per_tok" not in name and isinstance(value, int) and value > 1
        for name, value in config.items()
    )


def clean_generation_config(config: "GenerationConfig", ends: frozenset[int]) -> "GenerationConfig":
    """`config` as `save_pretrained` accepts it, with `ends` as the ids that end a turn.

    Contradictory sampling defaults would make saving fail after the training. Recipes set their own sampling, so such a
    configuration keeps only its special tokens.
    """
    from transformers import GenerationConfig

    config = copy.deepcopy(config)
    try:
        with _quiet():
            config.validate(strict=True)
    except ValueError:
        config = GenerationConfig(bos_token_id=config.bos_token_id, pad_token_id=config.pad_token_id)
    config.eos_token_id = min(ends) if len(ends) == 1 else sorted(ends)
    return config


def _require_weights(model: "PreTrainedModel", checkpoint: Path) -> None:
    """ValueError for weights that are not finite, or a tied head that Transformers did not tie to its embedding."""
    import torch

    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(
                f"{checkpoint}: '{name}' holds NaN or infinite weights; use an undamaged checkpoint"
            )
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = model.config.get_text_config().tie_word_embeddings and head is not None
    if tied and head.weight is not embedding.weight:
        raise ValueError(head_differs(checkpoint))


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block Transformers logs nothing."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
