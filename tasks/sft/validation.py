"""The loss on held-out traces during training, which shows whether the model learns or memorises.

All traces of a held-out problem are held out: its other traces would teach the model this one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tasks.shared.learning.distributed import sum_over_ranks
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.packing import TrainSequence

VALIDATION_FILE = "validation.jsonl"


@dataclass(frozen=True, slots=True)
class ValidationRecord:
    """One line of validation.jsonl."""

    step: int  # completed optimizer steps
    loss: float  # mean -log-prob of the trained tokens, in nats
    trained_tokens: int


def held_out(problems: Sequence[str], share: float, seed: int) -> list[bool]:
    """Whether each trace, given by its problem, is held out: those of about `share` of the problems, at least of one.

    Problem and seed decide, so that traces of other problems change nothing. ValueError if no trace would be left to
    train on.
    """
    if not share:
        return [False] * len(problems)
    places = {problem: _place(problem, seed) for problem in set(problems)}
    chosen = {problem for problem, place in places.items() if place < share}
    chosen = chosen or {min(places, key=places.__getitem__)}
    if len(chosen) == len(places):
        raise ValueError(
            f"sft.validation_share = {share:g} leaves no trace to train on: all {len(places)} problems are held out; "
            "lower it"
        )
    return [problem in chosen for problem in problems]


def _place(problem: str, seed: int) -> float:
    """A number from 0 to 1 that belongs to the problem."""
    digest = hashlib.sha256(f"{seed}\0{problem}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def validate(engine: TrainingEngine, sequences: Sequence[TrainSequence], row_tokens: int) -> ValidationRecord:
    """The loss as in training, over all ranks; no weight changes."""
    tokens = sum(int(sequence.loss_mask[1:].sum()) for sequence in sequences)
    loss = 0.0
    with torch.no_grad():
        for row in engine.rows(sequences, row_tokens):
            loss -= float(engine.token_logprobs(row).sum())
    return ValidationRecord(engine.num_steps, sum_over_ranks(loss) / tokens, tokens)
