"""The tiny base model: Qwen2's architecture at about a million parameters, randomly initialised from the seed."""

from pathlib import Path

from tasks.prepare.tiny_tokenizer import train_tokenizer
from tasks.shared.config import TinyModel


def make_tiny_checkpoint(shape: TinyModel, seed: int, directory: Path) -> None:
    """Write model, tokenizer and generation configuration into `directory`.

    The same shape and seed give the same bytes. Embeddings are tied, as in Qwen2.5 up to 3B.
    """
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizer = train_tokenizer(shape.vocabulary, seed, shape.max_positions)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        # the usual 0.02 suits thousands of hidden units; with this value 128 of them learn to copy in half the steps
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(directory, safe_serialization=True)
    tokenizer.save_pretrained(directory)
