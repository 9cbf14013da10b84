"""Models for the tests with vLLM."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.shared.config import TinyModel


def strong_checkpoint(directory: Path, seed: int, tied: bool = True) -> Path:
    """A random checkpoint with strong logits, which show a stale tensor."""
    make_tiny_checkpoint(TinyModel(), seed, directory)
    model = AutoModelForCausalLM.from_pretrained(directory, tie_word_embeddings=tied)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
        if not tied:
            noise = torch.randn(model.lm_head.weight.shape, generator=torch.manual_seed(seed))
            model.lm_head.weight.add_(noise * 0.05)
    model.save_pretrained(directory)
    return directory
