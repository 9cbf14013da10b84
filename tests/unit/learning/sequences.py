"""Random training sequences, for the tests of learning."""

import numpy as np

from tasks.shared.learning.packing import TrainSequence


def random_sequences(lengths: list[int], vocabulary: int, seed: int = 0) -> list[TrainSequence]:
    """Sequences with random ids, about 60 % of the tokens trained, and one extra that tells tokens apart."""
    rng = np.random.default_rng(seed)
    return [
        TrainSequence(
            ids=rng.integers(0, vocabulary, length),
            loss_mask=rng.random(length) < 0.6,
            extras={"weight": rng.random(length)},
        )
        for length in lengths
    ]
