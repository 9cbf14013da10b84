"""Random training sequences, and steps of an engine on them, for the tests of learning."""

from typing import NamedTuple

import numpy as np
import torch

from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.packing import TrainSequence

VOCABULARY = 97


class Weights(NamedTuple):
    """What a loss may need of each token."""

    weights: torch.Tensor


def random_sequences(lengths: list[int], vocabulary: int, seed: int = 0) -> list[TrainSequence[Weights]]:
    """Sequences with random ids, about 60 % of the tokens in the loss, and a weight that tells tokens apart."""
    rng = np.random.default_rng(seed)
    return [
        TrainSequence(
            ids=rng.integers(0, vocabulary, length),
            loss_mask=rng.random(length) < 0.6,
            per_token=Weights(torch.tensor(rng.random(length), dtype=torch.float32)),
        )
        for length in lengths
    ]


def sequences_of(step: int) -> list[TrainSequence[Weights]]:
    """The sequences of a step."""
    return random_sequences([17, 3, 40, 25, 8, 31], VOCABULARY, seed=step)


def num_loss_tokens(sequences: list[TrainSequence[Weights]]) -> int:
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
