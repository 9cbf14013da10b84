"""The state of training: kept in scratch to survive a kill, and published for the next round as `trainer_state`.

A saved state is a directory with DeepSpeed's checkpoint (weights, optimizer, random state), the critic's if there is
one, the step, which is the data cursor, and the seed of the data order.
"""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed as dist

from tasks.rl.objective.critic import CriticEngine
from tasks.shared.contract.environment import rank
from tasks.shared.contract.scratch import require_same
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.saved import checkpoints_in

CRITIC = "critic"  # folder of the critic's part in a saved state


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run of rounds."""

    round: int  # from 1
    first_step: int  # RL steps done before this round
    step: int  # RL steps done, over all rounds: the data cursor
    data_seed: int  # of the order of problems, that of the first round
    drawn: int = 0  # problems that asynchronous steps have drawn, over all rounds: their data cursor


class SavedStates:
    """Saved states of one round in its scratch directory; the last one is kept."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._fingerprint = fingerprint

    def save(self, engine: TrainingEngine, critic: CriticEngine | None, progress: Progress) -> None:
        """Write a state, then drop older ones. The policy's part comes last, so a kill never leaves a partial state."""
        target = self._directory / f"{progress.step:06d}"
        if rank() == 0:  # keep the state from which a round killed now would resume
            self._drop(keep=max((p for p in self._directory.iterdir() if checkpoints_in(p)), default=None))
            target.mkdir(exist_ok=True)
        dist.barrier()
        if critic is not None:
            critic.save(target / CRITIC, {})
        if engine.save(target, {"progress": asdict(progress), "fingerprint": self._fingerprint}):
            self._drop(keep=target)

    def _drop(self, keep: Path | None) -> None:
        """Remove every other state. Several ranks may do so at once."""
        for path in self._directory.iterdir():
            if path != keep:
                shutil.rmtree(path, ignore_errors=True)

    def resume(self, engine: TrainingEngine, critic: CriticEngine | None) -> Progress | None:
        """Load the last complete state; None without one. ValueError if it belongs to another request."""
        for path in sorted(self._directory.iterdir(), reverse=True):
            state = engine.resume(path)
            if state is None:
                continue
            require_same(state["fingerprint"], self._fingerprint, path, "states")
            _resume_critic(critic, path)
            return Progress(**state["progress"])
        return None

    def copy_last(self, directory: Path) -> None:
        """Put the last state into the `trainer_state` artifact, as hard links if possible: its files are final."""
        shutil.copytree(max(self._directory.iterdir()), directory / "trainer", copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _resume_critic(critic: CriticEngine | None, directory: Path) -> None:
    if critic is not None and critic.resume(directory / CRITIC) is None:
        raise ValueError(
            f"{directory}: no critic in this trainer state; rl.algorithm = 'ppo' continues a round of PPO, or starts "
            "without a trainer_state"
        )


def take_over(engine: TrainingEngine, critic: CriticEngine | None, trainer_state: Path) -> Progress:
    """Load the previous round's state; return the progress with which this round starts."""
    state = engine.resume(trainer_state / "trainer")
    if state is None:
        raise ValueError(
            f"{trainer_state}: no trainer state in it; give the trainer_state of the round before"
        )
    _resume_critic(critic, trainer_state / "trainer")
    before = Progress(**state["progress"])
    return Progress(before.round + 1, before.step, before.step, before.data_seed, before.drawn)
