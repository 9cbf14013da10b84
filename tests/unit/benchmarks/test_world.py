"""TRL's input in the comparison of SFT: this project's steps, token by token, at its rates."""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.random_work import random_sequences
from benchmarks.trl import settings
from benchmarks.trl.world import IGNORED, sft_optimizer, sft_steps, write_rows
from tasks.shared.learning.engine import learning_rate_at


def test_rows_are_the_steps_in_their_order(tmp_path: Path) -> None:
    sequences = random_sequences(7, 700, vocabulary=50)
    write_rows(sequences, tmp_path / "rows.parquet", seed=3)
    rows = pd.read_parquet(tmp_path / "rows.parquet")
    steps = sft_steps(sequences, settings.SFT_STEPS, seed=3)
    assert len(rows) == len(steps) == settings.SFT_STEPS
    for (number, row), step in zip(rows.iterrows(), steps, strict=True):
        assert list(row["seq_lengths"]) == [len(sequence.ids) for sequence in step]
        assert np.array_equal(row["input_ids"], np.concatenate([sequence.ids for sequence in step]))
        trained = np.concatenate([sequence.loss_mask for sequence in step])
        assert np.array_equal(row["labels"] != IGNORED, trained)
        assert np.array_equal(row["labels"][trained], row["input_ids"][trained])
        assert row["learning_rate"] == learning_rate_at(sft_optimizer(), int(number), settings.SFT_STEPS)
