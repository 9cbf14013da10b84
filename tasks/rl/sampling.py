"""What a step samples: its problems, their trajectories over all ranks, and others for groups that teach nothing.

`Experiences` is what a step asks of whoever samples for it: `Sampler` here, in turn with the trainer; `ahead.py` beside
it; `recorded.py` from what was sampled before.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.rl.experience import Graded, score
from tasks.rl.metrics import PhaseClock
from tasks.rl.objective.filters import is_outage, teaches
from tasks.rl.problems import RlProblem, draw_others, draw_problems, sample_seed
from tasks.shared.config import GenerationConfig, RlStage
from tasks.shared.contract.environment import rank, world_size
from tasks.shared.contract.stage import Value
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Generator
from tasks.shared.learning.distributed import from_first_rank, gather_to_first_rank
from tasks.shared.learning.reward_function import RewardFunction
from tasks.shared.tools.protocol import Tool
from tasks.shared.traces.trajectory import Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Experiences:
    """The source of a round's trajectories. Every rank has one; the first rank gets all of them. Close it.

    Each method but `collect` does nothing unless a source overrides it.
    """

    @property
    def drawn(self) -> int:
        """Problems drawn ahead so far, over all rounds; 0 where the step is the cursor."""
        return 0

    def collect(self, step: int, data_seed: int, clock: PhaseClock) -> list[Graded]:
        """The graded trajectories of the step after `step` steps, in the order of group and sample.

        In the first rank, which deals them out; none in the others.
        """
        raise AssertionError("each source collects in its own way")

    def sync(self, step: int, push: Callable[[], None]) -> None:
        """Let the sampler have the weights after `step` steps, by `push`."""

    def keep(self, step: int) -> None:
        """The trainer has done `step` steps, and the sampler goes on with the weights it has."""

    def saved(self, step: int) -> None:
        """The state after `step` steps is on the disk: nothing before it is done again."""

    def measured(self, clock: PhaseClock) -> dict[str, Value]:
        """Metrics of the last step besides its phases."""
        return {}

    def publish(self, directory: Path) -> None:
        """The round is over: add to its rollouts in `directory`."""

    def close(self) -> None:
        """End what runs."""


class Sampler(Experiences):
    """Samples and grades the trajectories of a step, in turn with the trainer."""

    def __init__(
        self,
        config: RlStage,
        policy: RolloutPolicy,
        *,
        problems: Sequence[RlProblem],
        generator: Generator,
        interpreter: Tool | None,
        tokenizer: "PreTrainedTokenizerBase",
        seed: int,
        judge: RewardFunction | None = None,
    ) -> None:
        self._config = config
        self._policy = policy
        self._problems = problems
        self._generator = generator
        self._interpreter = interpreter
        self._tokenizer = tokenizer
        self._seed = seed
        self._judge = judge

    def collect(self, step: int, data_seed: int, clock: PhaseClock) -> list[Graded]:
        """The graded trajectories of step `step` (from 0), in the order of group and sample.

        While groups have equal rewards, others are sampled in their place, `rl.resample_attempts` times in all. What
        was sampled stays in the result: left out, the easy and the hard problems would be missing from every metric.
        """
        rl = self._config.rl
        wanted = draw_problems(self._problems, rl.prompts_per_step, step, data_seed)
        tried: list[RlProblem] = []
        graded: list[Graded] = []
        for attempt in range(1, rl.resample_attempts + 1):
            first, tried = len(tried), tried + wanted
            with clock("sample"):
                mine = self._sample(wanted, first, step)
            with clock("score"):
                graded += _of_all_ranks(score(mine, tried, self._config, self._judge))
            if attempt == rl.resample_attempts:
                break
            lacking = from_first_rank(rl.prompts_per_step - num_teaching(graded))
            if not lacking:
                break
            wanted = draw_others(self._problems, lacking, tried, step, attempt, data_seed)
            if not wanted:
                break
        return graded

    def sync(self, step: int, push: Callable[[], None]) -> None:
        """Nothing runs: the weights change."""
        push()

    def keep(self, step: int) -> None:
        """Not here: each step trains on what the weights before it have sampled."""
        raise AssertionError("a sampler in turn with the trainer has its weights")

    def _sample(self, problems: Sequence[RlProblem], first: int, step: int) -> list[Trajectory]:
        """This rank's share of the samples; the problems are groups `first`, `first` + 1, ..."""
        rl = self._config.rl
        num_samples = rl.samples_per_prompt * (2 if rl.resample_on_correct else 1)
        requests = [
            RolloutRequest(
                problem.id, sample, problem.prompt_ids, sample_seed(self._seed, step, place, sample)
            )
            for place, problem in enumerate(problems, first)
            for sample in range(num_samples)
            if is_mine(self._config.generation, place)
        ]
        trajectories = rollout(requests, self._generator, self._interpreter, self._tokenizer, self._policy)
        return [replace(t, versions=((step, t.num_sampled),)) for t in trajectories]


def is_mine(generation: GenerationConfig, place: int) -> bool:
    """Whether this rank samples number `place`: inside each has an engine; of others the first asks for all."""
    if generation.placement == "inside":
        return place % world_size() == rank()
    return rank() == 0


def _of_all_ranks(mine: Sequence[Graded]) -> list[Graded]:
    """Everyone's, in the order of group and sample; in the first rank.

    Each is graded in one rank alone: what a grade may take is limited in seconds, so that two ranks can differ, and
    ranks with other rewards would take other numbers of steps.
    """
    return sorted(gather_to_first_rank(mine), key=lambda row: (row.group, row.trajectory.sample))


def num_teaching(graded: Sequence[Graded]) -> int:
    """Groups whose outcomes, outages aside, are not all equal."""
    groups = np.array([row.group for row in graded])
    valid = np.array([not is_outage(row.trajectory) for row in graded])
    return len(np.unique(groups[teaches(np.array([row.outcome for row in graded]), groups, valid)]))
