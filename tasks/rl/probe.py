"""The probe: after every weight sync, do sampler and trainer hold the same weights? Their log-probs must agree."""

from collections.abc import Sequence

import numpy as np
import torch

from tasks.shared.environment import rank, world_size
from tasks.shared.generation.protocol import Generator, HasCopies, NamesDifferences
from tasks.shared.learning.distributed import gather_from_ranks, max_over_ranks
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.packing import TrainSequence, pack
from tasks.shared.stage import TrainingStopped

MAX_PROBED = 4  # sequences
MAX_NAMED = 5  # tensors in the message


class WeightsDiffer(TrainingStopped):
    """Sampler and trainer disagree on the same ids: what is sampled would not be what is trained."""


def probe(
    engine: TrainingEngine,
    generator: Generator,
    sequences: Sequence[Sequence[int]],
    bound: float,
    row_tokens: int,
) -> float:
    """The largest |log-prob| difference over all tokens of a few sequences. WeightsDiffer if it is over `bound`.

    Every rank's sampler scores the same sequences; trainer scores are computed by all ranks together.
    """
    probed = [list(ids) for ids in sequences[:MAX_PROBED]]
    sampler = [np.array(values) for values in generator.score(probed)]
    trainer = _trainer_logprobs(engine, probed, row_tokens)
    gap = max_over_ranks(max(_gap(sampler[i][1:], values[1:]) for i, values in trainer.items()))
    if gap > bound:
        raise WeightsDiffer(
            f"after the weight sync log-probs of sampler and trainer differ by {gap:.3g}, more than "
            f"rl.probe_bound = {bound:g}; {_name_differences(engine, generator)}"
        )
    if isinstance(generator, HasCopies) and (names := generator.disagreeing()):
        raise WeightsDiffer(
            f"after the weight sync a server does not hold what the others do: {_shown(names)}; run the stage again: "
            "it goes on from its last saved step with servers started anew"
        )
    return gap


def _gap(sampler: np.ndarray, trainer: np.ndarray) -> float:
    """The largest difference; infinite where either is not a number."""
    return float(np.nan_to_num(np.abs(sampler - trainer), nan=np.inf).max(initial=0.0))


def _trainer_logprobs(
    engine: TrainingEngine, sequences: Sequence[Sequence[int]], row_tokens: int
) -> dict[int, np.ndarray]:
    """Sequence index to (n,) log-probs, 0.0 for the first token: all of them in every rank, each computed by one."""
    wanted = [TrainSequence(np.array(ids), np.ones(len(ids), dtype=bool)) for ids in sequences]
    found: dict[int, np.ndarray] = {}
    with torch.no_grad():
        for row in pack(wanted, row_tokens, world_size())[rank() :: world_size()]:
            for index, values in row.split(engine.token_logprobs(row).cpu()):
                if row.num_targets:  # a row that fills in for a rank without sequences has none
                    found[index] = values.double().numpy()
    return dict(gather_from_ranks(list(found.items())))


def _name_differences(engine: TrainingEngine, generator: Generator) -> str:
    if not isinstance(generator, NamesDifferences):
        return "this engine cannot tell which tensors"
    names = generator.differing(engine.weights())
    if not names:
        return "yet all tensors are equal: the engines compute differently"
    return f"tensors that differ: {_shown(names)}"


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
