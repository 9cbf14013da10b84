"""Attention confined to each sequence of a packed row, in the pattern of the model's own code.

Only the model's code knows a layer's pattern (causal, a sliding window, chunks): it calls Transformers' mask functions,
which pass the pattern to `packed_mask`. Within `packed_row` no mask of T x T is built from it. Attention is a loop over
the sequences: causal if the pattern reaches over the whole sequence, else over blocks of queries with the keys within
their reach. Elsewhere (generation) the model computes as with SDPA.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "packed"
# Lengths of the sequences in the current row. Not an argument, because a model may drop arguments on the way to its
# attention (StableLM does).
_LENGTHS: ContextVar[tuple[int, ...] | None] = ContextVar("lengths", default=None)


@dataclass(frozen=True, slots=True)
class Pattern:
    """The keys that a layer's query may see within its own sequence."""

    lengths: tuple[int, ...]  # tokens of each sequence, in row order
    allowed: Callable[..., torch.Tensor]  # Transformers' mask function: (batch, head, query, key) to bool
    reach: int | None  # a query sees only keys less than this far back; None: all keys before it


def register_packed_attention() -> None:
    """Make packed attention known to Transformers under `ATTENTION`; calling it again changes nothing."""
    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, packed_mask)


@contextmanager
def packed_row(lengths: Sequence[int]) -> Iterator[None]:
    """Within the block the forward pass is that of a row of sequences of `lengths` tokens."""
    token = _LENGTHS.set(tuple(lengths))
    try:
        yield
    finally:
        _LENGTHS.reset(token)


def packed_mask(
    *,
    mask_function: Callable[..., torch.Tensor],
    local_size: int | None = None,
    use_vmap: bool = False,
    **kwargs: Any,
) -> Pattern | torch.Tensor | None:
    """A layer's pattern within `packed_row`, and SDPA's mask elsewhere. Transformers' mask functions call it.

    Raises ValueError for a pattern that is not one of causal attention, such as attention in both directions.
    """
    lengths = _LENGTHS.get()
    if lengths is None:
        return sdpa_mask(mask_function=mask_function, local_size=local_size, use_vmap=use_vmap, **kwargs)
    if use_vmap:  # set where a model adds a function of its own to the pattern
        raise ValueError("its attention is more than causal")
    return Pattern(lengths, mask_function, local_size)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (1, heads, T, D)
    key: torch.Tensor,  # (1, key-value heads, T, D)
    value: torch.Tensor,  # (1, key-value heads, T, D)
    attention_mask: Pattern | torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention by the pattern in each sequence of the row; SDPA where a mask was built.

    A mask over the row would cost T x T and be computed whole; the loop costs the sum of n x n / 2, and under a window
    of W tokens the sum of 2 n W.
    """
    if not isinstance(attention_mask, Pattern):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    pattern = attention_mask
    parts = [
        _attend(pattern, q, k, v, dropout, scaling)
        for q, k, v in zip(*(tensor.split(pattern.lengths, 2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def _attend(
    pattern: Pattern,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """One sequence of n tokens, each (1, heads, n, D)."""
    length = query.shape[2]
    if pattern.reach is None or length <= pattern.reach:
        return scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
        )
    # With a mask, kernels do not share key heads among query heads.
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    blocks = []
    for start in range(0, length, pattern.reach):
        stop, first = min(length, start + pattern.reach), max(0, start - pattern.reach + 1)
        mask = sdpa_mask(
            batch_size=1,
            q_length=stop - start,
            kv_length=stop - first,
            q_offset=start,
            kv_offset=first,
            mask_function=pattern.allowed,
            allow_is_causal_skip=False,
            device=query.device,
        )
        q, k, v = query[:, :, start:stop], key[:, :, first:stop], value[:, :, first:stop]
        blocks.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling))
    return torch.cat(blocks, 2)
