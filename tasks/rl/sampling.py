"""Samples the trajectories of a step over all ranks, and replaces groups that teach nothing.

`Experiences` is a step's interface to its source of trajectories: `Sampler` here samples in turn with the trainer,
`ahead.py` beside it, and `Recorded` reads what was sampled before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from tasks.rl.experience import Graded, score
from tasks.rl.metrics import PhaseClock
from tasks.rl.objective.filters import is_outage, teaches
from tasks.rl.problems import RlProblem, draw_others, draw_problems, sample_seed
from tasks.rl.reward_function import RewardFunction
from tasks.rl.rollouts import read_step
from tasks.rl.spec import RlStage
from tasks.shared.config import GenerationConfig
from tasks.shared.contract.environment import rank, world_size
from tasks.shared.contract.stage import Value
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Generator
from tasks.shared.learning.distributed import from_first_rank, gather_to_first_rank
from tasks.shared.tools.protocol import Tool
from tasks.shared.traces.trajectory import Trajectory


class Experiences:
    """The source of a round's trajectories. Every rank has one; the first rank gets all of them. Close it.

    Every method except `collect` does nothing unless a source overrides it.
    """

    @property
    def drawn(self) -> int:
        """Problems drawn ahead so far, over all rounds; 0 if the step is the data cursor."""
        return 0

    def collect(self, step: int, data_seed: int, clock: PhaseClock) -> list[Graded]:
        """The graded trajectories of the step after `step` steps, in the order of group and sample.

        All of them in the first rank, which deals them out; none in the others.
        """
        raise AssertionError("each source collects in its own way")

    def sync(self, step: int, push: Callable[[], None]) -> None:
        """Give the sampler the weights after `step` steps, by calling `push`."""

    def keep(self, step: int) -> None:
        """The trainer has done `step` steps, and the sampler keeps its weights."""

    def saved(self, step: int) -> None:
        """The state after `step` steps is on disk: no earlier step is repeated."""

    def measured(self, clock: PhaseClock) -> dict[str, Value]:
        """Metrics of the last step beside its phases."""
        return {}

    def publish(self, directory: Path) -> None:
        """At the end of the round: add files to its rollouts in `directory`."""

    def close(self) -> None:
        """End its threads."""


@dataclass(eq=False)
class LiveExperiences(Experiences):
    """A source that samples with live code: what `Sampler` and `Ahead` need for it."""

    config: RlStage
    policy: RolloutPolicy
    problems: Sequence[RlProblem]
    generator: Generator
    tool: Tool | None
    tokenizer: PreTrainedTokenizerBase
    seed: int
    judge: RewardFunction | None


class Sampler(LiveExperiences):
    """Samples and grades the trajectories of a step, in turn with the trainer."""

    def collect(self, step: int, data_seed: int, clock: PhaseClock) -> list[Graded]:
        """The graded trajectories of step `step` (from 0), in the order of group and sample.

        While groups have equal rewards, others are sampled in their place, up to `rl.resample_attempts` times. Replaced
        groups stay in the result; otherwise the easy and the hard problems would be missing from every metric.
        """
        rl = self.config.rl
        drawn = draw_problems(self.problems, rl.prompts_per_step, step, data_seed)
        tried: list[RlProblem] = []
        graded: list[Graded] = []
        for attempt in range(1, rl.resample_attempts + 1):
            first, tried = len(tried), tried + drawn
            with clock("sample"):
                mine = self._sample(drawn, first, step)
            with clock("score"):
                # Each is graded in one rank alone. The time limits of grading could make two ranks differ, and ranks
                # with different rewards would take different numbers of steps.
                scored = gather_to_first_rank(score(mine, tried, self.config, self.judge))
                graded += sorted(scored, key=lambda row: (row.group, row.trajectory.sample))
            if attempt == rl.resample_attempts:
                break
            lacking = from_first_rank(rl.prompts_per_step - num_teaching(graded))
            if not lacking:
                break
            drawn = draw_others(self.problems, lacking, tried, step, attempt, data_seed)
            if not drawn:
                break
        return graded

    def sync(self, step: int, push: Callable[[], None]) -> None:
        """Change the weights at once, because nothing is running."""
        push()

    def keep(self, step: int) -> None:
        """Never called: each step trains on samples of the weights before it."""
        raise AssertionError("a sampler in turn with the trainer has its weights")

    def _sample(self, problems: Sequence[RlProblem], first: int, step: int) -> list[Trajectory]:
        """This rank's share of the samples; the problems are groups `first`, `first` + 1, ..."""
        requests = [
            RolloutRequest(
                problem.id, sample, problem.prompt_ids, sample_seed(self.seed, step, place, sample)
            )
            for place, problem in enumerate(problems, first)
            for sample in range(self.config.rl.num_samples)
            if is_mine(self.config.generation, place)
        ]
        trajectories = rollout(requests, self.generator, self.tool, self.tokenizer, self.policy)
        return [replace(t, versions=((step, t.num_sampled),)) for t in trajectories]


class Recorded(Experiences):
    """The rollouts of a round (input `record`) again, in the same order: on one rank with weights equal to the bit."""

    def __init__(self, record: Path) -> None:
        self._record = record

    def collect(self, step: int, data_seed: int, clock: PhaseClock) -> list[Graded]:
        """The trajectories that the step after `step` steps was trained on."""
        with clock("sample"):
            return read_step(self._record, step + 1) if rank() == 0 else []


def is_mine(generation: GenerationConfig, place: int) -> bool:
    """Whether this rank samples number `place`: its share with an engine inside, else the first rank samples all."""
    if generation.placement == "inside":
        return place % world_size() == rank()
    return rank() == 0


def num_teaching(graded: Sequence[Graded]) -> int:
    """The number of groups whose outcomes, apart from outages, are not all equal."""
    groups = np.array([row.group for row in graded])
    valid = np.array([not is_outage(row.trajectory) for row in graded])
    return len(np.unique(groups[teaches(np.array([row.outcome for row in graded]), groups, valid)]))
