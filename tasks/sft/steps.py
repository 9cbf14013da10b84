"""Assigns traces to optimizer steps. The seed fixes this before training, so a resumed run needs only its step."""

from collections.abc import Sequence

import numpy as np


def plan_steps(
    lengths: Sequence[int], *, epochs: float, tokens_per_step: int, max_steps: int | None, seed: int
) -> list[list[int]]:
    """Trace indices for each step: every epoch in a different order, cut where a step is full.

    A step holds at most `tokens_per_step` tokens, but at least one trace. `epochs` may be a fraction.
    Example: lengths 3 3 3, one epoch, 6 tokens a step: two steps, of two traces and of one.
    """
    steps: list[list[int]] = []
    used = 0
    for index in _order(len(lengths), epochs, seed):
        if not steps or used + lengths[index] > tokens_per_step:
            if len(steps) == max_steps:
                return steps
            steps.append([])
            used = 0
        steps[-1].append(index)
        used += lengths[index]
    return steps


def _order(num_traces: int, epochs: float, seed: int) -> list[int]:
    """Every trace once an epoch, each epoch shuffled anew."""
    total = max(1, round(epochs * num_traces))
    order: list[int] = []
    for epoch in range(-(-total // num_traces)):
        generator = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
        order += generator.permutation(num_traces).tolist()
    return order[:total]
