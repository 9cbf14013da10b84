"""Packing puts every sequence into one row, whole, and never beyond the token budget."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.shared.learning.packing import TrainSequence, pack
from tests.unit.learning.sequences import random_sequences


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40), ranks=st.integers(1, 4))
def test_every_sequence_is_packed_once_within_the_budget(lengths: list[int], ranks: int) -> None:
    sequences = random_sequences(lengths, vocabulary=50)
    rows = pack(sequences, row_tokens=30, ranks=ranks)
    assert len(rows) % ranks == 0
    assert all(row.num_tokens <= 30 for row in rows)
    packed = [index for row in rows for index in row.sequences]
    num_fillers = len(packed) - len(sequences)  # rows without targets, which only fill a rank's turn
    assert set(packed) == set(range(len(sequences))) and 0 <= num_fillers < ranks
    trained = sum(int(sequence.loss_mask[1:].sum()) for sequence in sequences)
    assert sum(row.num_loss_tokens for row in rows) == trained


def test_split_gives_each_sequence_its_own_tokens() -> None:
    sequences = random_sequences([5, 9, 1, 7, 12, 3], vocabulary=50)
    for row in pack(sequences, row_tokens=16):
        for index, ids in row.split(row.ids):
            assert ids.tolist() == sequences[index].ids.tolist()
        for index, weights in row.split(row.per_token.weights):
            assert torch.equal(weights, sequences[index].per_token.weights)
        for index, positions in row.split(row.position_ids):
            assert positions.tolist() == list(range(len(sequences[index].ids)))


def test_the_first_token_of_a_sequence_is_never_a_target() -> None:
    sequences = [TrainSequence(np.arange(4), np.ones(4, dtype=bool)) for _ in range(3)]
    (row,) = pack(sequences, row_tokens=12)
    assert row.loss_mask[0].tolist() == [False, True, True, True] * 3
    assert row.segment_ids[0].tolist() == [1] * 4 + [2] * 4 + [3] * 4


def test_rows_are_balanced() -> None:
    rows = pack(random_sequences([10] * 8, vocabulary=9), row_tokens=60)
    assert [row.num_tokens for row in rows] == [40, 40]


def test_fewer_sequences_than_ranks_give_rows_without_targets() -> None:
    rows = pack(random_sequences([6], vocabulary=9), row_tokens=10, ranks=3)
    assert [row.num_loss_tokens > 0 for row in rows] == [True, False, False]


def test_a_sequence_longer_than_a_row_is_refused_with_the_key_to_change() -> None:
    with pytest.raises(ValueError, match="11 tokens does not fit tokens_per_micro_batch = 10"):
        pack(random_sequences([3, 11], vocabulary=9), row_tokens=10)


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(AssertionError):
        TrainSequence(np.arange(4), np.ones(3, dtype=bool))


def test_moving_a_row_keeps_everything() -> None:
    (row,) = pack(random_sequences([4, 5], vocabulary=9), row_tokens=9)
    moved = row.to(torch.device("cpu"))
    assert torch.equal(moved.ids, row.ids) and moved.lengths == row.lengths
    assert torch.equal(moved.per_token.weights, row.per_token.weights)
