"""Random training sequences, and steps of an engine on them, for the tests of learning."""

import numpy as np

from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.packing import TrainSequence

VOCABULARY = 97


def random_sequences(lengths: list[int], vocabulary: int, seed: int = 0) -> list[TrainSequence]:
    """Sequences with random ids, about 60 % of the tokens in the loss, and a distinct extra value per token."""
    rng = np.random.default_rng(seed)
    return [
        TrainSequence(
            ids=rng.integers(0, vocabulary, length),
            loss_mask=rng.random(length) < 0.6,
            extras={"weight": rng.random(length)},
        )
        for length in lengths
    ]


def sequences_of(step: int) -> list[TrainSequence]:
    """The sequences of a step."""
    return random_sequences([17, 3, 40, 25, 8, 31], VOCABULARY, seed=step)


def num_loss_tokens(sequences: list[TrainSequence]) -> int:
    """The number of targets in the loss, which a sequence's first token never is."""
    return sum(int(sequence.loss_mask[1:].sum()) for sequence in sequences)


def engine_step(engine: TrainingEngine, step: int, row_tokens: int = 64) -> tuple[float, float]:
    """One step on the sequences of `step`: (loss, gradient norm)."""
    sequences, loss = sequences_of(step), 0.0
    for row in engine.rows(sequences, row_tokens):
        share = -engine.token_logprobs(row).sum() / num_loss_tokens(sequences)
        engine.backward(share)
        loss += float(share.detach())
    return loss, engine.step()
