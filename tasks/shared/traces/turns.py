"""The end of an assistant's turn: the ids that the chat template writes there, and all ids that stop a sampler.

A base model's `eos_token` is often not what its template writes (`<|endoftext|>`, `<|im_end|>`), and generation_config
may name more. SFT teaches the template's ids. Any id that one of the three names ends a turn.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.shared.traces.text_ids import text_ids

if TYPE_CHECKING:
    from transformers import GenerationConfig as TransformersGenerationConfig
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

MESSAGE = "Indeed, 2"  # an assistant's message; the text after it ends the turn


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The ids that close an assistant's message, up to the first control token; else the end of sequence.

    Raises ValueError: the template cannot be rendered, or nothing ends a turn.
    """
    messages = [{"role": "user", "content": "1 + 1 = 2?"}, {"role": "assistant", "content": MESSAGE}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # a foreign template may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path}: its chat template cannot write an assistant's message ({reason}); "
            "correct it, or use another model"
        ) from error
    assert isinstance(text, str)
    _, written, after = text.rpartition(MESSAGE)
    ids = text_ids(tokenizer, after) if written else []
    marks = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for place, token in enumerate(ids):
        if token in marks:
            return tuple(ids[: place + 1])
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path}: no end-of-turn token: its chat template writes none after an "
            "assistant's message, and it has no eos_token; set eos_token in tokenizer_config.json"
        )
    return (tokenizer.eos_token_id,)


def stop_ids(
    tokenizer: "PreTrainedTokenizerBase", *configs: "PreTrainedConfig | TransformersGenerationConfig"
) -> frozenset[int]:
    """Every id that ends a turn: the template's, the tokenizer's, and those of model and generation `configs`."""
    found = {turn_end(tokenizer)[-1], tokenizer.eos_token_id}
    for config in configs:
        named = getattr(config, "eos_token_id", None)
        found |= set(named) if isinstance(named, list) else {named}
    return frozenset(i for i in found if i is not None)


def stop_ids_of(checkpoint: Path, tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """`stop_ids` with the configurations in a checkpoint's directory."""
    from transformers import AutoConfig, GenerationConfig

    configs: list[PreTrainedConfig | TransformersGenerationConfig] = [
        AutoConfig.from_pretrained(checkpoint, trust_remote_code=False).get_text_config()
    ]
    if (checkpoint / "generation_config.json").is_file():
        configs.append(GenerationConfig.from_pretrained(checkpoint))
    return stop_ids(tokenizer, *configs)
