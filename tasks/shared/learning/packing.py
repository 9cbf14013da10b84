"""Token sequences packed into rows without padding, and the log-probs of their tokens.

A row is (1, T): sequences end to end, with positions from 0 in each and attention within each, so packing changes no
loss. `pack` balances the rows, which evens out peak memory and the ranks. `per_token` carries what a loss needs for
each token, in fields that the stage names (advantages, for example); `PackedBatch.split` undoes the packing.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch

# A NamedTuple of tensors, of one value a token each; () where a loss needs none.
PerToken = TypeVar("PerToken", bound=tuple[torch.Tensor, ...])


@dataclass(frozen=True, slots=True)
class TrainSequence(Generic[PerToken]):
    """One prompt with its response, n tokens, as training sees it.

    Example: prompt 5 6, response 7 8 whose second token is the interpreter's: `ids=[5, 6, 7, 8]`,
    `loss_mask=[False, False, True, False]`.
    """

    ids: np.ndarray  # (n,) int
    loss_mask: np.ndarray  # (n,) bool: token i is a target; never the first, which nothing predicts
    per_token: PerToken = ()  # type: ignore[assignment]  # (n,) float32 each

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.loss_mask), *map(len, self.per_token)}
        assert len(lengths) == 1 and len(self.ids) > 0, f"lengths differ or are 0: {lengths}"


@dataclass(frozen=True, slots=True)
class PackedBatch(Generic[PerToken]):
    """One packed row. B = 1 row of T tokens, the sum of `lengths`; no padding."""

    ids: torch.Tensor  # (B, T) int64
    position_ids: torch.Tensor  # (B, T) int64, from 0 in each sequence
    segment_ids: torch.Tensor  # (B, T) int32, 1, 2, ... in row order
    loss_mask: torch.Tensor  # (B, T) bool: target tokens
    per_token: PerToken  # (B, T) float32 each
    lengths: tuple[int, ...]  # tokens of each sequence, in row order
    sequences: tuple[int, ...]  # index of each sequence in the list that was packed

    @property
    def num_tokens(self) -> int:
        """All tokens of the row."""
        return self.ids.numel()

    @property
    def num_loss_tokens(self) -> int:
        """Tokens in the loss."""
        return int(self.loss_mask.sum())

    def to(self, device: torch.device) -> "PackedBatch[PerToken]":
        """The same row on `device`."""
        names = "ids", "position_ids", "segment_ids", "loss_mask"
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in names}
        return replace(self, **moved, per_token=_each(lambda values: values.to(device), self.per_token))

    def split(self, values: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """Per-token `values` (B, T) as (index of the sequence in the packed list, its (n,) values)."""
        return list(zip(self.sequences, values[0].split(self.lengths), strict=True))


def _each(function: Callable[..., torch.Tensor], *records: PerToken) -> PerToken:
    """The record whose fields are `function` of that field of all records."""
    kind: Any = type(records[0])
    return kind(*map(function, *records))


def pack(
    sequences: Sequence[TrainSequence[PerToken]], row_tokens: int, ranks: int = 1, one_a_row: bool = False
) -> list[PackedBatch[PerToken]]:
    """Rows of at most `row_tokens` tokens that hold every sequence once, in the layout of `lay_out`."""
    rows = lay_out([len(sequence.ids) for sequence in sequences], row_tokens, ranks, one_a_row)
    return [make_row(sequences, row) for row in rows]


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The sequences that are packed end to end in one row."""

    sequences: tuple[int, ...]  # indices in row order
    blank: bool = False  # fills in for a rank without sequences: no token is a target


def lay_out(
    lengths: Sequence[int], row_tokens: int, ranks: int = 1, one_a_row: bool = False
) -> list[RowLayout]:
    """The rows for sequences of these lengths; their number is a multiple of `ranks`.

    Puts the longest first into the emptiest row (deterministic), or each into a row of its own. Rank r takes
    `rows[r::ranks]`: ZeRO needs equally many forward passes in all ranks, so a row without targets fills in if there
    are fewer sequences than ranks. Raises ValueError for a sequence longer than a row.
    """
    if not lengths:
        return []
    longest = max(lengths)
    if longest > row_tokens:
        raise ValueError(
            f"a sequence of {longest} tokens does not fit tokens_per_micro_batch = {row_tokens}; raise that"
        )
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    num_rows = len(lengths) if one_a_row else -(-sum(lengths) // row_tokens)
    num_rows += -num_rows % ranks
    while (rows := _spread(order, lengths, num_rows, row_tokens)) is None:
        num_rows += ranks
    return [RowLayout(tuple(row)) if row else RowLayout((order[-1],), blank=True) for row in rows]


def _spread(
    order: Sequence[int], lengths: Sequence[int], num_rows: int, row_tokens: int
) -> list[list[int]] | None:
    """The sequence indices of each row, each put into the emptiest row; None if one does not fit."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    fill = [(0, row) for row in range(num_rows)]
    for index in order:
        used, row = heapq.heappop(fill)
        used += lengths[index]
        if used > row_tokens:
            return None
        rows[row].append(index)
        heapq.heappush(fill, (used, row))
    return rows


def make_row(sequences: Sequence[TrainSequence[PerToken]], layout: RowLayout) -> PackedBatch[PerToken]:
    """The packed row of this layout."""
    chosen = [sequences[index] for index in layout.sequences]
    lengths = tuple(len(sequence.ids) for sequence in chosen)
    positions = np.concatenate([np.arange(length) for length in lengths])
    loss_mask = np.concatenate([sequence.loss_mask for sequence in chosen]).astype(bool)
    return PackedBatch(
        ids=torch.from_numpy(np.concatenate([sequence.ids for sequence in chosen]).astype(np.int64))[None],
        position_ids=torch.from_numpy(positions.astype(np.int64))[None],
        segment_ids=torch.from_numpy(np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths))[
            None
        ],
        loss_mask=torch.from_numpy(loss_mask & (positions > 0) & (not layout.blank))[None],
        per_token=_each(lambda *parts: torch.cat(parts)[None], *(sequence.per_token for sequence in chosen)),
        lengths=lengths,
        sequences=layout.sequences,
    )
