"""SFT, policy, critic and probe under ZeRO-3 at Qwen2.5-7B's vocabulary. Ranks have unequal numbers of targets.

torchrun --nproc-per-node=2 -m tests.integration.zero3_world OUT.json
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from tasks.rl.config import RlConfig
from tasks.rl.critic import CriticUpdate, with_advantages
from tasks.rl.experience import Experience, Graded
from tasks.rl.objective.critic import CriticEngine
from tasks.rl.probe import probe
from tasks.rl.update import PolicyUpdate
from tasks.sft.training import train_step
from tasks.shared.config import OptimizerConfig
from tasks.shared.contract.environment import rank
from tasks.shared.learning import logprobs
from tasks.shared.learning.distributed import sum_over_ranks
from tasks.shared.learning.engine import Engine, TrainingEngine
from tasks.shared.learning.packing import PackedBatch, TrainSequence, pack
from tasks.shared.traces.trajectory import FinishReason, Trajectory
from tests.unit.generation.tiny import tiny_model

VOCABULARY = 152_064
PIECE = 24  # targets whose logits are held at once; the project holds 882 at this vocabulary
ROW = 80  # tokens; two sequences of any step below do not fit
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, zero_stage=3, weight_decay=0.0)
RL = RlConfig(algorithm="ppo", tokens_per_micro_batch=ROW, mini_batches=2, drop_equal_rewards=False)


def measure() -> dict[str, Any]:
    """The results of each part, and whether DeepSpeed knows the order of modules; without it nothing is prefetched."""
    logprobs.MAX_LOGITS = PIECE * VOCABULARY
    torch.set_num_threads(1)
    policy = TrainingEngine(small_model(), OPTIMIZER, total_steps=20)
    critic = CriticEngine(small_model(), OPTIMIZER, total_steps=20)
    found: dict[str, Any] = {"sft": [train_step(policy, batch, ROW).loss for batch in sft_steps()]}
    found["sft_traced"] = traced(policy)
    update = PolicyUpdate(policy, RL, None, max_response_tokens=ROW)
    critic_update = CriticUpdate(critic, RL)
    for rewards in ([1, -1, 1, -1, 1], [1]):  # of one trajectory a second rank has none
        experience = experience_of(rewards if rank() == 0 else [])
        evaluated = critic_update.evaluate(experience)
        experience = with_advantages(experience, evaluated, whitened=False)
        found.setdefault("values", []).append([float(np.abs(values).sum()) for values in evaluated.values])
        found.setdefault("critic", []).append(critic_update.update(experience, evaluated, 0)["value_loss"])
        result = update.update(experience, 0)
        found.setdefault("policy", []).append([result.sums.loss, result.grad_norm, result.sums.entropy])
        train_step(policy, sft_steps()[1], ROW)  # a pass without gradients keeps the old trace
    sequences = [list(range(n)) for n in (60, 5, 30)]
    found["probe"] = probe(policy, cast("Any", scorer(policy)), sequences, 1e-3, ROW).largest
    train_step(policy, sft_steps()[1], ROW)
    state = policy.state_dict() or {}
    found["in_memory"] = sum_over_ranks(
        sum(tensor.numel() for tensor in state.values())
    )  # on the host, of all ranks
    last = sft_steps()[2]
    dealt = policy.dealt_rows(last if rank() == 0 else [], ROW)
    assert ids_of(dealt) == ids_of(policy.rows(last, ROW)), (
        "another rank's rows, or others than all would cut"
    )
    found["dealt"] = sum_over_ranks(len(ids_of(dealt)))
    found["traced"] = [traced(policy), traced(critic)]
    return found


def small_model() -> Any:
    """A model of the full vocabulary, tiny in every other dimension."""
    return tiny_model(VOCABULARY, hidden=16, layers=1, tied=False)


def sft_steps() -> list[list[TrainSequence]]:
    """Steps whose rows have 69 and 3 targets, one row alone, and rows of four sequences."""
    rng = np.random.default_rng(0)

    def sequence(length: int, trained: int) -> TrainSequence:
        return TrainSequence(rng.integers(0, VOCABULARY, length), np.arange(length) >= length - trained)

    return [
        [sequence(70, 70), sequence(65, 3)],
        [sequence(50, 30)],
        [sequence(*sizes) for sizes in ((72, 50), (60, 60), (40, 1), (20, 10))],
    ]


def experience_of(rewards: list[int]) -> Experience:
    """Trajectories of 75, 60, 45, ... tokens."""
    rng = np.random.default_rng(1)
    graded = []
    for sample, reward in enumerate(rewards):
        length = 72 - 15 * sample
        ids = tuple(rng.integers(0, VOCABULARY, length).tolist())
        trajectory = Trajectory(
            "p", sample, (5, 6, 7), ids, (True,) * length, (-12.0,) * length, (), FinishReason.EOS, "", ""
        )
        graded.append(Graded(trajectory, 0, "", reward > 0, "", float(reward), float(reward)))
    none = np.zeros(len(rewards), dtype=bool)
    return Experience(tuple(graded), none, none, ~none, np.zeros(len(rewards)), none)


def ids_of(rows: Iterable[PackedBatch]) -> list[list[int]]:
    """The ids of the sequences that are trained on in these rows."""
    return [ids.tolist() for row in rows for _, ids in row.split(row.ids) if row.num_loss_tokens]


def scorer(engine: TrainingEngine) -> SimpleNamespace:
    """A sampler with the whole trained weights."""
    model = small_model()
    with torch.no_grad():
        named = dict(model.named_parameters())
        for name, tensor in engine.weights():
            named[name].copy_(tensor)

    def score(sequences: list[list[int]]) -> list[list[float]]:
        rows = [
            pack([TrainSequence(np.array(ids), np.ones(len(ids), dtype=bool))], ROW)[0] for ids in sequences
        ]
        with torch.no_grad():
            return [logprobs.token_logprobs(model, row)[0].tolist() for row in rows]

    return SimpleNamespace(score=score)


def traced(engine: Engine) -> bool:
    """True if DeepSpeed knows the order in which modules are run."""
    return engine._deepspeed.optimizer.parameter_offload.get_param_coordinator().is_complete_trace()


if __name__ == "__main__":
    found = measure()
    if rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
