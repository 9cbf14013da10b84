"""Replays a round: trains on the recorded rollouts of one (input `record`) in the same order, and samples nothing.

On one rank the weights are equal to the bit.
"""

from pathlib import Path

from tasks.rl.experience import Graded
from tasks.rl.metrics import PhaseClock
from tasks.rl.rollouts import read_step
from tasks.rl.sampling import Experiences
from tasks.shared.contract.environment import rank


class Recorded(Experiences):
    """The trajectories of a rollouts artifact, step by step."""

    def __init__(self, record: Path) -> None:
        self._record = record

    def collect(self, step: int, data_seed: int, clock: PhaseClock) -> list[Graded]:
        """The trajectories that the step after `step` steps was trained on."""
        with clock("sample"):
            return read_step(self._record, step + 1) if rank() == 0 else []
