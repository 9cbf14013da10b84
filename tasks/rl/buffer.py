"""The groups between sampler and trainer of an asynchronous round: drawn, in flight, waiting, taken, dropped.

A draw is a problem with all its samples; its group is their trajectories. Draws are limited to what steps can take in
time: `rl.prompts_per_step` for each of the `rl.staleness` + 1 steps from the sampling weights on, including those in
training (the bound of AReaL, arXiv 2505.24298, section 5.1). Not thread-safe: the owner holds a lock.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tasks.rl.config import RlConfig
from tasks.rl.experience import Graded
from tasks.rl.journal import JOURNAL_FILE, Journal
from tasks.rl.problems import RlProblem, draw_problems, sample_seed
from tasks.rl.rollouts import read_group, write_group
from tasks.rl.sampling import num_teaching
from tasks.shared.generation.interleave import RolloutRequest
from tasks.shared.traces.trajectory import Trajectory


class Buffer:
    """The open draws, with their journal."""

    def __init__(
        self,
        directory: Path,
        config: RlConfig,
        problems: Sequence[RlProblem],
        *,
        seed: int,
        data_seed: int,
        first_draw: int,
        last_step: int,
    ) -> None:
        """Resume from the journal in `directory`, or begin with draw `first_draw`; `last_step` ends the round."""
        self._files = directory / "groups"
        self._files.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(directory / JOURNAL_FILE)
        self._config = config
        self._problems = problems
        self._seed, self._data_seed = seed, data_seed
        self._last_step = last_step
        self.next_draw = max(self.journal.account.drawn, default=first_draw - 1) + 1
        self.in_flight: dict[int, list[Trajectory]] = {}  # draws with an incomplete group
        self.waiting: dict[int, list[Graded]] = {}  # complete groups that no step has taken
        self._num_training = 0  # groups of the step in training

    def may_draw(self, step: int, begun: int) -> bool:
        """Whether a group begun with the weights after `begun` steps would be taken in time; `step` steps are done."""
        counted = sum(self._counts(group) for group in self.waiting.values())
        num_open = len(self.in_flight) + counted + self._num_training
        steps = min(begun + self._config.staleness + 1, self._last_step) - step
        return num_open < steps * self._config.prompts_per_step

    def draw(self, step: int) -> list[RolloutRequest]:
        """The requests of the next problem."""
        draw, self.next_draw = self.next_draw, self.next_draw + 1
        self.journal.write("drawn", draw=draw, problem=self.problem(draw).id, begun=step)
        self.in_flight[draw] = []
        return self._requests(draw)

    def reopen(self, step: int) -> list[RolloutRequest]:
        """Resume the journal's open draws: complete groups wait again, draws in flight are requested again."""
        requests = []
        for draw in self.journal.account.open:
            if draw in self.journal.account.whole:
                self.waiting[draw] = read_group(self._path(draw))
            else:
                self.journal.write("asked", draw=draw, begun=step)
                self.in_flight[draw] = []
                requests += self._requests(draw)
        return requests

    def problem(self, draw: int) -> RlProblem:
        """The problem of a draw: `prompts_per_step` draws in a row are those of one synchronous step."""
        step, place = divmod(draw, self._config.prompts_per_step)
        return draw_problems(self._problems, self._config.prompts_per_step, step, self._data_seed)[place]

    def add(self, trajectory: Trajectory) -> list[Trajectory]:
        """Add a trajectory; return the group if this completes one that was not dropped, else nothing."""
        draw = int(trajectory.problem_id)
        if draw not in self.in_flight:
            return []
        group = self.in_flight[draw]
        group.append(replace(trajectory, problem_id=self.problem(draw).id))
        return group if len(group) == self._config.num_samples else []

    def write(self, draw: int, group: Sequence[Graded]) -> None:
        """Write a graded group to disk. May be called while another thread uses the buffer."""
        write_group(self._path(draw), group)

    def keep(self, draw: int, group: list[Graded]) -> None:
        """Let a written group wait for a step."""
        if draw in self.in_flight:
            del self.in_flight[draw]
            self.journal.write("whole", draw=draw)
            self.waiting[draw] = group

    def take(self, step: int) -> list[Graded] | None:
        """The groups of the step after `step` steps, the oldest first; None while there are too few.

        Enough are `rl.prompts_per_step` groups. If others replace groups of equal rewards, only those that teach count,
        up to `rl.resample_attempts` times as many groups in all. Groups too old for this step are dropped.
        """
        self._drop_stale(step)
        size = self._config.prompts_per_step
        chosen: list[int] = []
        counted = 0
        for draw in sorted(self.waiting, key=lambda draw: (oldest(self.waiting[draw]), draw)):
            chosen.append(draw)
            counted += self._counts(self.waiting[draw])
            if counted == size or len(chosen) == size * self._config.resample_attempts:
                break
        else:
            return None
        chosen.sort()
        self.journal.write("taken", step=step + 1, draws=chosen)
        self._num_training = size
        return numbered([self.waiting.pop(draw) for draw in chosen])

    def taken(self, step: int) -> list[Graded] | None:
        """The groups that the step after `step` steps took before the round was killed; None if it took none."""
        draws = self.journal.account.taken.get(step + 1)
        return None if draws is None else numbered([read_group(self._path(draw)) for draw in draws])

    def end_step(self) -> None:
        """Note that no step is in training."""
        self._num_training = 0

    def forget(self, step: int) -> None:
        """Remove the groups of the first `step` steps, whose weights are saved."""
        for number, draws in self.journal.account.taken.items():
            for draw in draws if number <= step else ():
                self._path(draw).unlink(missing_ok=True)

    def end(self) -> None:
        """Drop open draws at the end of the round."""
        for draw in self.journal.account.open:
            self._drop(draw, "the round was over")

    def _drop_stale(self, step: int) -> None:
        for draw, group in list(self.waiting.items()):
            if step - oldest(group) > self._config.staleness:
                self._drop(draw, f"stale: begun after step {oldest(group)}, waited until step {step + 1}")
        for draw in list(self.in_flight):
            begun = self.journal.account.drawn[draw].begun
            if step - begun > self._config.staleness:
                self._drop(draw, f"stale: begun after step {begun}, not whole at step {step + 1}")

    def _drop(self, draw: int, reason: str) -> None:
        self.journal.write("dropped", draw=draw, reason=reason)
        self.in_flight.pop(draw, None)
        self.waiting.pop(draw, None)
        self._path(draw).unlink(missing_ok=True)

    def _counts(self, group: Sequence[Graded]) -> bool:
        """Whether a group counts towards its step; one that teaches nothing does not if others replace it."""
        return self._config.resample_attempts == 1 or num_teaching(group) > 0

    def _requests(self, draw: int) -> list[RolloutRequest]:
        """A draw's requests, named by the draw, because a problem may be drawn twice."""
        step, place = divmod(draw, self._config.prompts_per_step)
        problem = self.problem(draw)
        return [
            RolloutRequest(
                str(draw), sample, problem.prompt_ids, sample_seed(self._seed, step, place, sample)
            )
            for sample in range(self._config.num_samples)
        ]

    def _path(self, draw: int) -> Path:
        return self._files / f"{draw:08d}.parquet"


def oldest(group: Sequence[Graded]) -> int:
    """Steps done before the weights that sampled a group's first token were made."""
    return min(version for row in group for version, _ in row.trajectory.versions)


def numbered(groups: Sequence[Sequence[Graded]]) -> list[Graded]:
    """The rows of a step's groups, each with the number of its group."""
    return [replace(row, group=number) for number, group in enumerate(groups) for row in group]
