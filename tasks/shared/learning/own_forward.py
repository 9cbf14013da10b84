"""Checks, for every loaded model, that training and sampling compute the same log-probs as the model itself.

Packed rows and decoding by slots bypass the model's plain forward pass. A new architecture may do something there that
they omit, and log-probs would be silently wrong. So a few tokens are computed both ways, with `eager` attention in the
plain pass. Meanwhile the model's attention windows are cut to `SHORT` tokens in both ways, so that a few tokens test a
window of any length.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

SHORT = 8
LENGTHS = (27, 3, 14)
# Layers whose attention can be confined to a sequence, because they carry no state.
ATTENTION_KINDS = {"full_attention", "sliding_attention", "chunked_attention"}
WINDOWS = ("sliding_window", "attention_chunk_size")
# Largest difference of a log-prob that rounding alone causes in the model's precision.
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 0.25}


def has_recurrent_state(model: PreTrainedModel) -> bool:
    """Whether a layer passes a state from token to token, which cannot be reset where a sequence ends.

    Such a model takes one sequence a row.
    """
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    return not kinds <= ATTENTION_KINDS


def sample_sequences(vocabulary: int) -> list[list[int]]:
    """Ids of `LENGTHS` tokens, the same each time."""
    drawn = np.random.default_rng(0)
    return [drawn.integers(0, vocabulary, length).tolist() for length in LENGTHS]


@torch.no_grad()
def plain_logprobs(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """(n,) float32 log-probs by the model's own forward pass, 0 for the first token."""
    tokens = torch.tensor([list(ids)], device=model.device)
    logprobs = model(input_ids=tokens, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return torch.cat([logprobs.new_zeros(1), logprobs.gather(1, tokens[0, 1:, None])[:, 0]])


@contextmanager
def short_windows(model: PreTrainedModel) -> Iterator[None]:
    """Within the block no window of the model's attention is longer than `SHORT` tokens."""
    holders: dict[int, Any] = {}
    for module in model.modules():
        holders[id(module)] = module
        if (config := getattr(module, "config", None)) is not None:
            holders[id(config)] = config
    cut = [
        (holder, name, length)
        for holder in holders.values()
        for name in WINDOWS
        if isinstance(length := getattr(holder, name, None), int) and length > SHORT
    ]
    for holder, name, _ in cut:
        setattr(holder, name, SHORT)
    try:
        yield
    finally:
        for holder, name, length in cut:
            setattr(holder, name, length)


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model's attention is Transformers' reference."""
    used = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(used)


def require_own_forward(
    model: PreTrainedModel, way: str, remedy: str, compare: Callable[[], tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """ValueError, in one line with the remedy, unless `compare` finds two equal sets of log-probs (n,).

    Each of the caught errors is a refusal, because a foreign architecture may raise any of them here.
    """
    kind = model.config.model_type
    try:
        with short_windows(model):
            found, expected = compare()
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"model type '{kind}' cannot be computed by {way} ({said}); {remedy}") from error
    gap = float((found.cpu() - expected.cpu()).abs().nan_to_num(nan=torch.inf).max())
    if gap > BOUNDS[model.dtype]:
        raise ValueError(
            f"model type '{kind}': log-probs by {way} differ by {gap:.2g} from those of its own forward pass "
            f"(at most {BOUNDS[model.dtype]:g}); {remedy}"
        )
