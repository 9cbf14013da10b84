"""Samples ahead: a thread keeps the sampler full while the trainer works, and the trainer takes complete groups.

Replaces `Sampler` if `rl.staleness` is over 0; the rest of a step is the same. The thread runs the loop that
interleaves generation with code, and draws a problem when a row is free for it. Another thread grades.
"""

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.rl.buffer import Buffer
from tasks.rl.experience import Graded, score
from tasks.rl.journal import JOURNAL_FILE
from tasks.rl.metrics import PhaseClock
from tasks.rl.sampling import Experiences, LiveExperiences
from tasks.rl.state import Progress
from tasks.shared.config import GenerationConfig
from tasks.shared.contract.stage import Value
from tasks.shared.generation.interleave import Interleaver, RolloutRequest
from tasks.shared.traces.trajectory import Trajectory

POLL_S = 0.05  # longest wait for code before the loop looks for other work


@dataclass(eq=False)
class Ahead(LiveExperiences):
    """The sampler of an asynchronous round, in the first rank. Close it."""

    directory: Path  # of journal and groups, from which the round resumes
    progress: Progress
    last_step: int

    def __post_init__(self) -> None:
        progress = self.progress
        self._buffer = Buffer(
            self.directory,
            self.config.rl,
            self.problems,
            seed=self.seed,
            data_seed=progress.data_seed,
            first_draw=max(progress.drawn, progress.first_step * self.config.rl.prompts_per_step),
            last_step=self.last_step,
        )
        self._steps = [progress.step]  # done before the weights of each version were made
        self._done = progress.step  # by the trainer
        self._slots = num_rows(self.config.generation)
        self._changed = threading.Condition()  # its lock guards everything below
        self._queue: deque[RolloutRequest] = deque()
        self._alive: dict[str, int] = {}  # requests in the sampler, with their draw
        self._unwanted: deque[str] = deque()  # those of dropped draws
        self._rows = _TimeAverage()  # how many are alive
        self._num_tokens = 0  # sampled since the last step
        self._paused = False
        self._stopping = False
        self._num_dropped = len(self._buffer.journal.account.dropped)  # up to the last step
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._grader = ThreadPoolExecutor(1, "grader")

    @property
    def drawn(self) -> int:
        """Problems drawn so far, over all rounds."""
        return self._buffer.next_draw

    def collect(self, step: int, data_seed: int, clock: PhaseClock) -> list[Graded]:
        """The graded groups of the step after `step` steps; waits until there are enough."""
        with clock("sample"):
            return self._buffer.taken(step) or self._wait_for(step)

    def _wait_for(self, step: int) -> list[Graded]:
        with self._changed:
            if self._thread is None:
                self._queue.extend(self._buffer.reopen(step))
                self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
                self._thread.start()
            while (graded := self._buffer.take(step)) is None:
                self._drop_requests()
                self._wait()
            self._drop_requests()
            return graded

    def _drop_requests(self) -> None:
        """Withdraw the requests of dropped draws, which frees their rows."""
        in_flight = self._buffer.in_flight
        self._queue = deque(request for request in self._queue if int(request.problem_id) in in_flight)
        self._unwanted = deque(name for name, draw in self._alive.items() if draw not in in_flight)
        self._changed.notify_all()

    def sync(self, step: int, push: Callable[[], None]) -> None:
        """Give the sampler the weights after `step` steps: at once, or when nothing runs any more."""
        with self._changed:
            self._paused = not self.config.rl.update_in_flight
            while self._paused and self._rows.value:
                self._wait()
            self._steps.append(step)
            self._done = step
        push()
        with self._changed:
            self._buffer.end_step()
            self._paused = False
            self._changed.notify_all()

    def keep(self, step: int) -> None:
        """See `Experiences.keep`."""
        with self._changed:
            self._done = step
            self._buffer.end_step()
            self._changed.notify_all()

    def saved(self, step: int) -> None:
        """See `Experiences.saved`."""
        with self._changed:
            self._buffer.forget(step)

    def measured(self, clock: PhaseClock) -> dict[str, Value]:
        """Measurements since the last step.

        queue: groups that wait; in_flight: draws whose group is not complete; dropped_groups: dropped draws;
        sampler_rows: mean number of live trajectories; sampler_idle: share of the time without one; trainer_idle: share
        of the step in which the trainer waited for groups.
        """
        with self._changed:
            rows, idle, seconds = self._rows.read()
            tokens, self._num_tokens = self._num_tokens, 0
            before, self._num_dropped = self._num_dropped, len(self._buffer.journal.account.dropped)
            return {
                "queue": len(self._buffer.waiting),
                "in_flight": len(self._buffer.in_flight),
                "dropped_groups": self._num_dropped - before,
                "sampler_rows": round(rows, 2),
                "sampler_idle": round(idle, 4),
                "trainer_idle": round(clock.seconds["sample"] / sum(clock.seconds.values()), 4),
                "sampling_tokens_per_s": round(tokens / seconds, 1),
            }

    def publish(self, directory: Path) -> None:
        """At the end of the round: drop open draws and copy the journal into `directory`."""
        with self._changed:
            self._buffer.end()
            shutil.copyfile(self._buffer.journal.path, directory / JOURNAL_FILE)

    def close(self) -> None:
        """End the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._grader.shutdown(cancel_futures=True)

    def _wait(self) -> None:
        """Wait for a change; raise the error that ended a thread."""
        if self._error is None:
            self._changed.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        """The sampling thread."""
        try:
            interleaver = Interleaver(self.generator, self.tool, self.tokenizer, self.policy, POLL_S)
            while self._start_rows(interleaver):
                for trajectory in interleaver.step():
                    self._take(trajectory)
        except BaseException as error:  # noqa: BLE001  the trainer's thread raises it
            self._fail(error)

    def _start_rows(self, interleaver: Interleaver) -> bool:
        """Drop unwanted requests and start new ones in free rows; wait while none is alive. False once closed."""
        with self._changed:
            while not self._stopping:
                while self._unwanted:
                    name = self._unwanted.popleft()
                    if self._end_row(name):
                        interleaver.drop(name)
                while not self._paused and self._rows.value < self._slots:
                    if not self._queue and self._buffer.may_draw(self._done, self._steps[-1]):
                        self._queue.extend(self._buffer.draw(self._steps[-1]))
                    if not self._queue:
                        break
                    request = self._queue.popleft()
                    self._alive[request.id] = int(request.problem_id)
                    self._rows.change(1)
                    interleaver.add(request)
                if interleaver.num_alive:
                    return True
                self._changed.wait()
            return False

    def _take(self, trajectory: Trajectory) -> None:
        """Add a finished trajectory to its group, and grade the group once it is complete."""
        draw = trajectory.problem_id  # requests are named by their draw
        with self._changed:
            self._end_row(f"{draw}/{trajectory.sample}")
            self._num_tokens += trajectory.num_sampled
            dated = tuple((self._steps[version], count) for version, count in trajectory.versions)
            group = self._buffer.add(replace(trajectory, versions=dated))
        if group:
            self._grader.submit(self._grade, int(draw), group)

    def _end_row(self, name: str) -> bool:
        """Free a row; False if it was free before."""
        if self._alive.pop(name, None) is None:
            return False
        self._rows.change(-1)
        self._changed.notify_all()
        return True

    def _grade(self, draw: int, group: list[Trajectory]) -> None:
        """Grade and keep a group; runs in the grader's thread."""
        try:
            graded = score(group, [self._buffer.problem(draw)], self.config, self.judge)
            self._buffer.write(draw, graded)
        except BaseException as error:  # noqa: BLE001  the trainer's thread raises it
            self._fail(error)
            return
        with self._changed:
            self._buffer.keep(draw, graded)
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


class AheadFollower(Experiences):
    """An asynchronous round's source in every other rank, which gets its rows from the first and gathers with it."""

    def collect(self, step: int, data_seed: int, clock: PhaseClock) -> list[Graded]:
        """Nothing: the first rank has all groups."""
        return []

    def sync(self, step: int, push: Callable[[], None]) -> None:
        """Gather with the first rank."""
        push()


class _TimeAverage:
    """The mean of a number over time, and the share of the time in which it was 0."""

    def __init__(self) -> None:
        self.value = 0
        self._started = self._last = time.monotonic()
        self._area = self._at_zero = 0.0

    def change(self, by: int) -> None:
        """Add `by` to the number now."""
        now = time.monotonic()
        self._area += self.value * (now - self._last)
        self._at_zero += (now - self._last) * (self.value == 0)
        self._last = now
        self.value += by

    def read(self) -> tuple[float, float, float]:
        """Mean, share at 0 and seconds since the last read or the start."""
        self.change(0)
        seconds = self._last - self._started
        averages = self._area / seconds, self._at_zero / seconds, seconds
        self._started, self._area, self._at_zero = self._last, 0.0, 0.0
        return averages


def num_rows(generation: GenerationConfig) -> int:
    """The number of live trajectories: as many as the engines decode side by side."""
    if generation.placement != "pool":
        return generation.max_sequences
    pool = generation.pool
    return generation.max_sequences * (len(pool.addresses) or pool.servers * max(1, pool.nodes))
