"""Seconds a step at staleness 0, 1, 2, 4 from 8 to 1,024 GPUs: the schedule of RL as a discrete-event simulation.

    make bench-simulate        # benchmarks/results/simulate.md

Events are the ends of pieces of responses. An engine decodes its rows side by side. How long its steps and the
trainer's take comes from the arithmetic behind `tirflow plan` (flows/planning/seconds.py). A row leaves its engine
while its program runs. A step trains on complete groups, the oldest first, and waits for those that would be too old
for the next step. At most (staleness + 1) steps' groups are begun and not trained. The page has staleness 0 twice: with
sampling and training in turn on all GPUs (inside), and with GPUs for each. It begins with steps that were measured, and
how far off the simulation is.
"""

import argparse
import heapq
import sys
import tomllib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from benchmarks.record import markdown_table, write_page
from data.gpus import Gpu, find_gpu
from data.models import ModelShape, find_model
from flows.planning.memory import GIB, cache_bytes_per_token
from flows.planning.published import PATH, estimates
from flows.planning.seconds import BESIDES_S, Engines, Pace, StepSeconds, Trainer, Work, step_seconds

GPUS = (8, 32, 128, 512, 1024)
STALENESS = (0, 1, 2, 4)
STEPS, WARM_UP = 7, 3  # of a simulation, and how many of the first are not counted
GROUP = 16  # samples of a problem
SHARES = (1 / 4, 1 / 2, 3 / 4)  # of the GPUs that sample, where they are apart


@dataclass(slots=True)
class Group:
    """The samples of one problem."""

    version: int  # steps done when it began
    left: int = GROUP  # samples that are not finished


@dataclass(slots=True)
class Row:
    """One response that is not finished."""

    group: Group
    engine: int
    pieces: int  # left, the current one included
    tokens: float  # of each piece
    context: float  # cached tokens before this piece


@dataclass(slots=True)
class Engine:
    """One sampler. It counts its own steps, which take `step_s` seconds each until rows come or go."""

    number: int
    steps: float = 0.0
    updated: float = 0.0  # the time at which it had done `steps`
    step_s: float = 0.0
    context: float = 0.0  # cached tokens of all rows
    ends: list[tuple[float, int, Row]] = field(default_factory=list)  # heap: the step at which a piece ends
    alive: int = 0  # rows that have a slot, those whose program runs included
    event: int = 0  # number of its valid event; earlier ones are outdated
    row_seconds: float = 0.0

    def advance(self, now: float) -> None:
        """Decode until `now`."""
        if self.ends:
            done = (now - self.updated) / self.step_s
            self.steps += done
            self.context += done * len(self.ends)
            self.row_seconds += (now - self.updated) * len(self.ends)
        self.updated = now


@dataclass(frozen=True, slots=True)
class World:
    """A layout and its work."""

    work: Work
    pace: Pace
    engines: int
    slots: int  # rows that an engine's cache holds
    train_s: float
    sync_s: float
    staleness: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Means over the counted steps."""

    step_s: float
    waits: float  # share of the time that the trainer waits for groups
    rows: float  # of an engine
    oldest: int  # most steps between the beginning of a group and its training


class Simulation:
    """One schedule."""

    def __init__(self, world: World, seed: int = 0) -> None:
        self._world = world
        self._engines = [Engine(number) for number in range(world.engines)]
        self._emptiest = [
            (0, engine.number) for engine in self._engines
        ]  # heap of (rows, engine), some outdated
        self._waiting: deque[tuple[Group, float]] = deque()  # lengths that have no slot
        self._lengths = self._draw(np.random.Generator(np.random.Philox(seed)))
        self._batch = world.work.trajectories // GROUP  # groups of a step
        self._events: list[tuple[float, int, int, Row | Engine]] = []  # time, order, event number, subject
        self._order = 0
        self._now = 0.0
        self._version = 0  # steps done
        self._begun: list[Group] = []  # not yet trained on, in order
        self._num_complete = 0  # of all steps
        self._training = 0  # groups
        self._oldest = 0

    def _draw(self, generator: np.random.Generator) -> Iterator[float]:
        """Lengths without end."""
        lengths = self._world.work.lengths(4096)
        while True:
            yield from generator.permutation(lengths).tolist()

    def run(self) -> Outcome:
        """Simulate all steps."""
        started = waited = rows = 0.0
        for step in range(STEPS):
            if step == WARM_UP:
                started, waited, rows = self._now, 0.0, self._row_seconds()
            self._begin_groups()
            before = self._now
            while not self._enough():
                complete = self._num_complete
                while self._num_complete == complete:
                    self._next()
            waited += self._now - before
            self._take()
            self._begin_groups()
            self._sample_until(self._now + self._world.train_s)
            self._training = 0
            self._version += 1
            self._pause(self._world.sync_s)
        seconds = self._now - started
        rows = (self._row_seconds() - rows) / seconds / len(self._engines)
        return Outcome(seconds / (STEPS - WARM_UP), waited / seconds, rows, self._oldest)

    def _row_seconds(self) -> float:
        return sum(engine.row_seconds for engine in self._engines)

    def _begin_groups(self) -> None:
        most = (self._world.staleness + 1) * self._batch - self._training
        while len(self._begun) < most:
            group = Group(self._version)
            self._begun.append(group)
            self._waiting.extend((group, next(self._lengths)) for _ in range(GROUP))
        self._admit()

    def _admit(self) -> None:
        """Start waiting rows while there are free slots, each at the engine with the fewest rows."""
        while self._waiting:
            while self._emptiest[0][0] != self._engines[self._emptiest[0][1]].alive:
                heapq.heappop(self._emptiest)
            alive, number = self._emptiest[0]
            if alive >= self._world.slots:
                return
            self._change_alive(self._engines[number], 1)
            group, length = self._waiting.popleft()
            pieces = 1 + round(self._world.work.calls_of(length))
            self._decode(Row(group, number, pieces, length / pieces, self._world.work.prompt_tokens))

    def _change_alive(self, engine: Engine, by: int) -> None:
        engine.alive += by
        heapq.heappush(self._emptiest, (engine.alive, engine.number))

    def _decode(self, row: Row) -> None:
        """Start a piece of a row at its engine, which has the cached prefix."""
        engine = self._engines[row.engine]
        engine.advance(self._now)
        self._order += 1
        heapq.heappush(engine.ends, (engine.steps + row.tokens, self._order, row))
        engine.context += row.context
        self._plan(engine)

    def _plan(self, engine: Engine) -> None:
        """Schedule the end of the engine's next piece, at the pace of the context half way to it."""
        engine.event += 1
        if not engine.ends:
            return
        steps, rows = max(0.0, engine.ends[0][0] - engine.steps), len(engine.ends)
        engine.step_s = self._world.pace.step_s(rows, engine.context + rows * steps / 2)
        self._push(engine.updated + steps * engine.step_s, engine.event, engine)

    def _push(self, time: float, event: int, subject: Row | Engine) -> None:
        self._order += 1
        heapq.heappush(self._events, (time, self._order, event, subject))

    def _next(self) -> None:
        """Process the next event."""
        time, _, event, subject = heapq.heappop(self._events)
        if isinstance(subject, Engine) and event != subject.event:
            return
        self._now = time
        if isinstance(subject, Row):  # its program has run
            self._decode(subject)
            return
        subject.advance(time)
        _, _, row = heapq.heappop(subject.ends)
        row.pieces -= 1
        row.context += row.tokens
        subject.context = max(0.0, subject.context - row.context)
        if row.pieces:
            self._push(time + self._world.work.call_s, 0, row)
        else:
            row.group.left -= 1
            self._num_complete += row.group.left == 0
            self._change_alive(subject, -1)
        self._plan(subject)
        if not row.pieces:
            self._admit()

    def _enough(self) -> bool:
        """Whether there is a complete batch, with every group that would be too old later."""
        due = self._version - self._world.staleness
        if any(group.left and group.version <= due for group in self._begun):
            return False
        return sum(not group.left for group in self._begun) >= self._batch

    def _take(self) -> None:
        """Hand the oldest complete groups to the trainer."""
        taken = [group for group in self._begun if not group.left][: self._batch]
        ids = {id(group) for group in taken}
        self._begun = [group for group in self._begun if id(group) not in ids]
        self._training = len(taken)
        self._oldest = max(self._oldest, *(self._version - group.version for group in taken))

    def _sample_until(self, time: float) -> None:
        """Sample until `time`, while the trainer works."""
        while self._events and self._events[0][0] <= time:
            self._next()
        self._now = time

    def _pause(self, seconds: float) -> None:
        """Stop decoding while weights are loaded; programs keep running."""
        for engine in self._engines:
            engine.advance(self._now)
            engine.updated = self._now + seconds
            self._plan(engine)
        self._now += seconds


def of_layout(
    work: Work, shape: ModelShape, gpu: Gpu, gpus: int, share: float, tensor_parallel: int, staleness: int
) -> Outcome:
    """A share of the GPUs samples and the others train; 1: all do both, in turn."""
    sampling = round(gpus * share)
    training = gpus if share == 1 else gpus - sampling
    slots = rows_in_cache(work, shape, gpu, tensor_parallel, 0.6 if share == 1 else 0.9)
    engines = Engines(max(1, sampling // tensor_parallel), tensor_parallel, slots)
    seconds = step_seconds(work, shape, gpu, engines, Trainer(training, 3))
    return _simulate(work, shape, gpu, engines, seconds, staleness)


def rows_in_cache(work: Work, shape: ModelShape, gpu: Gpu, tensor_parallel: int, utilization: float) -> int:
    """Rows of the mean length whose keys and values an engine holds beside its weights, in two bytes a number."""
    cache = utilization * gpu.memory_gib * GIB * tensor_parallel - 2 * shape.num_parameters
    return max(1, int(cache / (cache_bytes_per_token(shape, 2) * (work.prompt_tokens + work.mean_tokens))))


def _simulate(
    work: Work, shape: ModelShape, gpu: Gpu, engines: Engines, seconds: StepSeconds, staleness: int
) -> Outcome:
    pace = Pace.of(shape, gpu, engines.tensor_parallel)
    world = World(
        work, pace, engines.count, engines.slots, seconds.train + BESIDES_S, seconds.sync, staleness
    )
    return Simulation(world).run()


def checks() -> list[tuple[str, float, float]]:
    """(name, measured seconds a step, simulated seconds) of every published run."""
    rows = []
    for name, run in tomllib.loads(PATH.read_text(encoding="utf-8")).items():
        samples = run["prompts_per_step"] * run["samples_per_prompt"]
        work = Work(samples, run["mean_response_tokens"], run["max_response_tokens"])
        shape, gpu, parallel = find_model(run["model"]).shape, find_gpu(run["gpu"]), run["tensor_parallel"]
        apart = run["gpus"] - run["training_gpus"]
        for words, seconds, sampling, staleness in zip(
            ("synchronous", "asynchronous"), estimates(run), (run["gpus"], apart), (0, 1), strict=True
        ):
            engines = Engines(sampling // parallel, parallel, samples)
            outcome = _simulate(work, shape, gpu, engines, seconds, staleness)
            rows.append((f"{name}, {words}", run[f"{words}_s"], outcome.step_s))
    return rows


def main(arguments: list[str]) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate")
    parser.add_argument("--gpu", default="h200", help="a name in data/gpus.toml")
    parser.add_argument("--model", default="Qwen/Qwen2.5-7B-Instruct", help="a name in data/models.toml")
    parser.add_argument("--trajectories", type=int, default=1024, help=f"of a step, in groups of {GROUP}")
    parser.add_argument("--mean-tokens", type=float, default=4000.0)
    parser.add_argument("--most-tokens", type=int, default=16384)
    parser.add_argument("--tensor-parallel", type=int, default=2)
    options = parser.parse_args(arguments)
    shape, gpu = find_model(options.model).shape, find_gpu(options.gpu)
    work = Work(options.trajectories, options.mean_tokens, options.most_tokens)
    measured = [
        (words, f"{seconds:.0f}", f"{simulated:.0f}", f"{simulated / seconds - 1:+.0%}")
        for words, seconds, simulated in checks()
    ]
    command = " ".join(["python -m benchmarks.simulate", *arguments])
    lines = [f"`{command}`", ""]
    lines += markdown_table(("a step that was measured", "s", "simulated s", "off by"), measured)
    lines += [
        "",
        f"{options.model} on {gpu.name.upper()}, {work.trajectories:,} responses a step of {work.mean_tokens:,.0f} "
        f"tokens in the mean, 99th percentile {work.tail:g} times the median, at most {work.most_tokens:,}; engines of "
        f"{options.tensor_parallel} GPUs. Seconds a step; in brackets: inside the share of sampling, else the share of "
        "GPUs that sample (the best of three), the share of the time in which the trainer waits, and how many times as "
        "fast as inside.",
        "",
    ]
    rows = []
    for gpus in GPUS:
        sys.stderr.write(f"{gpus} GPUs\n")
        inside = of_layout(work, shape, gpu, gpus, 1, options.tensor_parallel, 0)
        cells = [f"{gpus:,}", f"{inside.step_s:,.0f} ({inside.waits:.0%})"]
        for staleness in STALENESS:
            tried = [
                (of_layout(work, shape, gpu, gpus, share, options.tensor_parallel, staleness), share)
                for share in SHARES
            ]
            best, share = min(tried, key=lambda item: item[0].step_s)
            gain = inside.step_s / best.step_s
            cells.append(f"{best.step_s:,.0f} ({share:.0%}, {best.waits:.0%}, {gain:.2f})")
        rows.append(cells)
    lines += markdown_table(("GPUs", "inside", *map("staleness {}".format, STALENESS)), rows)
    write_page("simulate", "Staleness from 8 to 1,024 GPUs, simulated", (), lines)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
