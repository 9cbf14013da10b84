"""A preallocated KV cache of independent rows ("slots"), the attention that reads it, and its masks.

Transformers' own caches grow or shift all rows together. Here every row has its own length: keys are written at the
row's own positions, and keys beyond its length are masked. So rows can start, stop, wait for code and continue in any
order. Grouped-query attention of one new token a row reads the cache in place, without repeating its heads.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache, PretrainedConfig
from transformers.masking_utils import AttentionMaskInterface

ATTENTION = "tirflow_slots"
GROWTH = 64  # the capacity of a row grows by multiples of this many tokens


@dataclass(frozen=True, slots=True)
class TokenPositions:
    """The positions of a forward pass's tokens, which each row has of its own."""

    queries: torch.Tensor  # (R, C) positions in the row
    keys: torch.Tensor  # (L,) 0, 1, ...: each row's keys are read up to L
    dtype: torch.dtype  # of the masks


_POSITIONS: ContextVar[TokenPositions | None] = ContextVar("positions", default=None)


@contextmanager
def at_positions(queries: torch.Tensor, length: int, dtype: torch.dtype) -> Iterator[None]:
    """Within the block a forward pass has its tokens at `queries` (R, C), which see `length` keys of their row.

    `dtype` is that of the masks.
    """
    token = _POSITIONS.set(TokenPositions(queries, torch.arange(length, device=queries.device), dtype))
    try:
        yield
    finally:
        _POSITIONS.reset(token)


class SlotCache(Cache):
    """Keys and values of `num_slots` rows, each (heads, capacity, head_dim) a layer.

    The engine calls `begin_*` before a forward pass; the model then calls `update` once a layer.
    """

    def __init__(
        self, config: PretrainedConfig, num_slots: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(layers=[])
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.capacity = 0
        self._shape = (num_slots, num_heads, head_dim)
        self._dtype, self._device = dtype, device
        self.keys: list[torch.Tensor] = [self._empty(0) for _ in range(config.num_hidden_layers)]
        self.values: list[torch.Tensor] = [self._empty(0) for _ in range(config.num_hidden_layers)]
        self._row_heads = torch.arange(num_slots * num_heads, device=device).view(num_slots, num_heads)
        # where the next keys are written, as rows of (slots * heads * capacity, D)
        self._targets = torch.empty(0, dtype=torch.long)
        self._rows: torch.Tensor | None = None  # None: the first `_num_rows` slots, in place
        self._num_rows = 0
        self._length = 0  # keys that the next queries read; 0: only those of this forward pass

    def _empty(self, capacity: int) -> torch.Tensor:
        slots, heads, head_dim = self._shape
        return torch.zeros((slots, heads, capacity, head_dim), dtype=self._dtype, device=self._device)

    def reserve(self, length: int) -> None:
        """Make room for rows of `length` tokens; rows keep their contents."""
        if length <= self.capacity:
            return
        capacity = max(-(-length // GROWTH) * GROWTH, min(2 * self.capacity, length + 1024))
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                new = self._empty(capacity)
                new[:, :, : self.capacity] = old
                tensors[layer] = new
        self.capacity = capacity

    def begin_decode(self, positions: torch.Tensor, length: int) -> None:
        """Prepare a pass with one token for each of the first R rows. positions: (R,)."""
        self._rows, self._num_rows, self._length = None, len(positions), length
        self._targets = (self._row_heads[: len(positions)] * self.capacity + positions[:, None]).reshape(-1)

    def begin_chunk(self, rows: torch.Tensor, positions: torch.Tensor, length: int) -> None:
        """Prepare a pass with a chunk for each of `rows` (R,). positions: (R, C); length 0: rows start empty."""
        self._rows, self._num_rows, self._length = rows, len(rows), length
        heads = self._row_heads[rows][:, :, None]
        self._targets = (heads * self.capacity + positions[:, None, :]).reshape(-1)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values, each (R, heads, C, D), and return those that the queries read."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        head_dim = keys.shape[-1]
        keys.view(-1, head_dim).index_copy_(0, self._targets, key_states.reshape(-1, head_dim))
        values.view(-1, head_dim).index_copy_(0, self._targets, value_states.reshape(-1, head_dim))
        if self._rows is None:
            return keys[: self._num_rows, :, : self._length], values[: self._num_rows, :, : self._length]
        if self._length == 0:
            return key_states, value_states
        held, held_values = keys[:, :, : self._length], values[:, :, : self._length]
        return held.index_select(0, self._rows), held_values.index_select(0, self._rows)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row to another."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]

    def swap_rows(self, first: torch.Tensor, second: torch.Tensor, length: int) -> None:
        """Exchange the rows `first` (n,) with `second` (n,), pair by pair, up to `length` tokens."""
        targets, sources = torch.cat([first, second]), torch.cat([second, first])
        for tensor in (*self.keys, *self.values):
            held = tensor[:, :, :length]
            held.index_copy_(0, targets, held.index_select(0, sources))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Required by Transformers; unused, because positions and masks are always given."""
        return 0


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention with a float mask (R, 1, C, L). query: (R, H, C, D); key, value: (R, H_kv, L, D).

    With one query a row, the query heads that share a key head become queries of that head, so no key is repeated.
    """
    rows, heads, chunk, head_dim = query.shape
    key_heads = key.shape[1]
    if chunk == 1 and heads != key_heads:
        grouped = query.reshape(rows, key_heads, heads // key_heads, head_dim)
        output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
        return output.reshape(rows, 1, heads, head_dim), None
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=heads != key_heads
    )
    return output.transpose(1, 2), None


def register_slot_attention() -> None:
    """Make `slot_attention` known to Transformers under `ATTENTION`; calling it again changes nothing."""
    AttentionInterface.register(ATTENTION, slot_attention)
    AttentionMaskInterface.register(ATTENTION, slot_mask)


def slot_mask(
    *, mask_function: Callable[..., torch.Tensor], use_vmap: bool = False, **_: Any
) -> torch.Tensor:
    """Additive mask (R, 1, C, L) of a layer's pattern, causal or with a window. Transformers' mask functions call it.

    Raises ValueError for a pattern that is not one of causal attention, such as attention in both directions.
    """
    if use_vmap:  # set where a model adds a function of its own to the pattern
        raise ValueError("its attention is more than causal")
    positions = _POSITIONS.get()
    assert positions is not None, "slot attention outside of the engine's forward passes"
    queries, keys = positions.queries[:, None, :, None], positions.keys[None, None, None, :]
    zero = torch.zeros((), dtype=torch.long, device=keys.device)
    shape = len(queries), 1, queries.shape[2], len(positions.keys)
    allowed = mask_function(zero, zero, queries, keys).expand(shape)
    mask = torch.zeros(allowed.shape, dtype=positions.dtype, device=keys.device)
    return mask.masked_fill_(~allowed, -torch.inf)
