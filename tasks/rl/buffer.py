"""The groups between sampler and trainer of an asynchronous round: drawn, in flight, waiting, taken, dropped.

A draw is a problem with all its samples, and its group their trajectories. No more are open than steps can take in
time: `rl.prompts_per_step` for each of the `rl.staleness` + 1 steps from the weights that sample on, those in training
among them (the bound of AReaL, arXiv 2505.24298, section 5.1). Not for two threads at once: its owner holds a lock.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tasks.rl.experience import Graded
from tasks.rl.journal import JOURNAL_FILE, Journal
from tasks.rl.problems import RlProblem, draw_problems, sample_seed
from tasks.rl.rollouts import read_group, write_group
from tasks.rl.sampling import num_teaching
from tasks.shared.config import RlConfig
from tasks.shared.generation.interleave import RolloutRequest
from tasks.shared.traces.trajectory import Trajectory


class Buffer:
    """What is open, with its record."""

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
        """Opened where the journal in `directory` was left, else with draw `first_draw`; `last_step` ends the round."""
        self._files = directory / "groups"
        self._files.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(directory / JOURNAL_FILE)
        self._config = config
        self._problems = problems
        self._seed, self._data_seed = seed, data_seed
        self._last_step = last_step
        self.next_draw = max(self.journal.account.drawn, default=first_draw - 1) + 1
        self._in_flight: dict[int, list[Trajectory]] = {}  # what has come of each
        self._waiting: dict[int, list[Graded]] = {}
        self._num_training = 0  # places of the step that trains

    @property
    def num_waiting(self) -> int:
        """Groups that are whole and that no step has taken."""
        return len(self._waiting)

    @property
    def num_in_flight(self) -> int:
        """Draws whose group is not whole."""
        return len(self._in_flight)

    def may_draw(self, step: int, begun: int) -> bool:
        """Whether one more group would be taken in time, with `step` steps done, by the weights after `begun` steps."""
        counted = sum(self._counts(group) for group in self._waiting.values())
        num_open = len(self._in_flight) + counted + self._num_training
        steps = min(begun + self._config.staleness + 1, self._last_step) - step
        return num_open < steps * self._config.prompts_per_step

    def draw(self, step: int) -> list[RolloutRequest]:
        """The requests of the next problem."""
        draw, self.next_draw = self.next_draw, self.next_draw + 1
        self.journal.draw(draw, self.problem(draw).id, step)
        self._in_flight[draw] = []
        return self._requests(draw)

    def reopen(self, step: int) -> list[RolloutRequest]:
        """Go on with what the journal has open: groups wait again; what was in flight is asked anew."""
        requests = []
        for draw in self.journal.account.open:
            if draw in self.journal.account.whole:
                self._waiting[draw] = read_group(self._path(draw))
            else:
                self.journal.ask_again(draw, step)
                self._in_flight[draw] = []
                requests += self._requests(draw)
        return requests

    def problem(self, draw: int) -> RlProblem:
        """The problem of a draw: the draws of `prompts_per_step` after another are those of a synchronous step."""
        step, place = divmod(draw, self._config.prompts_per_step)
        return draw_problems(self._problems, self._config.prompts_per_step, step, self._data_seed)[place]

    def wants(self, draw: int) -> bool:
        """Whether a draw is in flight."""
        return draw in self._in_flight

    def add(self, trajectory: Trajectory) -> list[Trajectory]:
        """Take up a trajectory; all of its group if it was the last one of a draw that is not dropped, else none."""
        draw = int(trajectory.problem_id)
        if draw not in self._in_flight:
            return []
        group = self._in_flight[draw]
        group.append(replace(trajectory, problem_id=self.problem(draw).id))
        return group if len(group) == self._num_samples else []

    def write(self, draw: int, group: Sequence[Graded]) -> None:
        """Put a graded group on the disk. May be called while another thread uses the buffer."""
        write_group(self._path(draw), group)

    def keep(self, draw: int, group: list[Graded]) -> None:
        """A group that was written is whole, and waits."""
        if draw in self._in_flight:
            del self._in_flight[draw]
            self.journal.make_whole(draw)
            self._waiting[draw] = group

    def take(self, step: int) -> list[Graded] | None:
        """What the step after `step` steps trains on, as soon as there is enough; the oldest first.

        Enough: `rl.prompts_per_step` groups, where others replace those of equal rewards as many that teach, or
        `rl.resample_attempts` times as many. What is too old for this step is dropped.
        """
        self._drop_stale(step)
        size = self._config.prompts_per_step
        chosen: list[int] = []
        counted = 0
        for draw in sorted(self._waiting, key=lambda draw: (oldest(self._waiting[draw]), draw)):
            chosen.append(draw)
            counted += self._counts(self._waiting[draw])
            if counted == size or len(chosen) == size * self._config.resample_attempts:
                break
        else:
            return None
        chosen.sort()
        self.journal.take(step + 1, chosen)
        self._num_training = size
        return placed([self._waiting.pop(draw) for draw in chosen])

    def taken(self, step: int) -> list[Graded] | None:
        """What the step after `step` steps has taken before the round was killed; None if it had not."""
        draws = self.journal.account.taken.get(step + 1)
        return None if draws is None else placed([read_group(self._path(draw)) for draw in draws])

    def end_step(self) -> None:
        """The step that trained is done."""
        self._num_training = 0

    def forget(self, step: int) -> None:
        """The files of what was trained on in the first `step` steps are needed no more: their weights are saved."""
        for number, draws in self.journal.account.taken.items():
            for draw in draws if number <= step else ():
                self._path(draw).unlink(missing_ok=True)

    def end(self) -> None:
        """The round is over: what is open is dropped."""
        for draw in self.journal.account.open:
            self._drop(draw, "the round was over")

    def _drop_stale(self, step: int) -> None:
        for draw, group in list(self._waiting.items()):
            if step - oldest(group) > self._config.staleness:
                self._drop(draw, f"stale: begun after step {oldest(group)}, waited until step {step + 1}")
        for draw in list(self._in_flight):
            begun = self.journal.account.drawn[draw].begun
            if step - begun > self._config.staleness:
                self._drop(draw, f"stale: begun after step {begun}, not whole at step {step + 1}")

    def _drop(self, draw: int, reason: str) -> None:
        self.journal.drop(draw, reason)
        self._in_flight.pop(draw, None)
        self._waiting.pop(draw, None)
        self._path(draw).unlink(missing_ok=True)

    def _counts(self, group: Sequence[Graded]) -> bool:
        """Whether a group fills a place of its step; one that teaches nothing does not where others replace it."""
        return self._config.resample_attempts == 1 or num_teaching(group) > 0

    def _requests(self, draw: int) -> list[RolloutRequest]:
        """Named by the draw: one problem may be drawn twice."""
        step, place = divmod(draw, self._config.prompts_per_step)
        problem = self.problem(draw)
        return [
            RolloutRequest(
                str(draw), sample, problem.prompt_ids, sample_seed(self._seed, step, place, sample)
            )
            for sample in range(self._num_samples)
        ]

    @property
    def _num_samples(self) -> int:
        return self._config.samples_per_prompt * (2 if self._config.resample_on_correct else 1)

    def _path(self, draw: int) -> Path:
        return self._files / f"{draw:08d}.parquet"


def oldest(group: Sequence[Graded]) -> int:
    """Steps done before the weights were made that sampled a group's first token."""
    versions = [row.trajectory.oldest_version for row in group]
    known = [version for version in versions if version is not None]
    assert len(known) == len(versions), "an engine that counts no versions"
    return min(known)


def placed(groups: Sequence[Sequence[Graded]]) -> list[Graded]:
    """The groups of one step in one list, numbered in their order."""
    return [replace(row, group=place) for place, group in enumerate(groups) for row in group]
