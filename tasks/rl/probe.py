"""The probe: checks after every weight sync that sampler and trainer hold the same weights, by their log-probs.

Two engines that compute in bfloat16 round differently: with equal weights a single token may differ by 0.2 and more.
Stale weights move all tokens. So the mean over tokens is bounded, and the largest difference is logged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tasks.shared.contract.stage import TrainingStopped
from tasks.shared.generation.protocol import Generator, HasCopies, NamesDifferences
from tasks.shared.learning.distributed import gather_from_ranks, max_over_ranks
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.packing import TrainSequence

MAX_PROBED = 4  # sequences
# Of each, from its start: vLLM computes the logits of all tokens of a sequence at once, outside its share of the GPU.
MAX_PROBED_TOKENS = 2048
MAX_NAMED = 5  # tensors in the message
# Of the mean, if the recipe names none. Measured on equal weights: 5e-7 in float32; 0.006 to 0.05 in bfloat16, less for
# flatter distributions.
BOUNDS = {"float32": 0.002, "bfloat16": 0.1}


class WeightsDiffer(TrainingStopped):
    """Sampler and trainer disagree on the same ids: the sampled policy would not be the trained one."""


@dataclass(frozen=True, slots=True)
class Gap:
    """|log-prob| differences of sampler and trainer over the tokens of the probe, in nats; infinite for NaN."""

    mean: float
    largest: float


def probe(
    engine: TrainingEngine,
    generator: Generator,
    sequences: Sequence[Sequence[int]],
    bound: float,
    row_tokens: int,
) -> Gap:
    """The gap over all tokens of a few sequences. WeightsDiffer if its mean is over `bound`.

    Every rank's sampler scores the same sequences; all ranks compute the trainer's scores together. The gap is the
    largest of all ranks.
    """
    probed = [list(ids[:MAX_PROBED_TOKENS]) for ids in sequences[:MAX_PROBED]]
    sampler = [np.array(values) for values in generator.score(probed)]
    trainer = _trainer_logprobs(engine, probed, row_tokens)
    mine = _gap(np.concatenate([sampler[i][1:] - values[1:] for i, values in sorted(trainer.items())]))
    gap = Gap(max_over_ranks(mine.mean), max_over_ranks(mine.largest))
    if gap.mean > bound:
        raise WeightsDiffer(
            f"after the weight sync log-probs of sampler and trainer differ by {gap.mean:.3g} a token (at most "
            f"{gap.largest:.3g}), more than rl.probe_bound = {bound:g}; {_name_differences(engine, generator)}"
        )
    if isinstance(generator, HasCopies) and (names := generator.disagreeing()):
        raise WeightsDiffer(
            f"after the weight sync servers hold different weights: {_shown(names)}; run the stage again: it resumes "
            "from its last saved step with new servers"
        )
    return gap


def _gap(differences: np.ndarray) -> Gap:
    """Mean and largest of (N,) differences; 0 without a token."""
    sizes = np.nan_to_num(np.abs(differences), nan=np.inf)
    return Gap(float(sizes.mean()) if len(sizes) else 0.0, float(sizes.max(initial=0.0)))


def _trainer_logprobs(
    engine: TrainingEngine, sequences: Sequence[Sequence[int]], row_tokens: int
) -> dict[int, np.ndarray]:
    """Sequence index to (n,) log-probs, 0.0 for the first token; all in every rank, each computed in one."""
    batch: list[TrainSequence] = [
        TrainSequence(np.array(ids), np.ones(len(ids), dtype=bool)) for ids in sequences
    ]
    found: dict[int, np.ndarray] = {}
    with torch.no_grad():
        for row in engine.rows(batch, row_tokens):
            for index, values in row.split(engine.token_logprobs(row).cpu()):
                if row.num_loss_tokens:  # a row that fills in for a rank without sequences has none
                    found[index] = values.double().numpy()
    return dict(gather_from_ranks(list(found.items())))


def _name_differences(engine: TrainingEngine, generator: Generator) -> str:
    if not isinstance(generator, NamesDifferences):
        return "this engine cannot tell which tensors"
    names = generator.differing(engine.weights())
    if not names:
        return (
            "yet all tensors are equal: this is rounding, or the engines compute differently; compare probe_mean of "
            "earlier steps, then raise rl.probe_bound, or set model.dtype = 'float32'"
        )
    return f"tensors that differ: {_shown(names)}"


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
