"""Evaluation while a round trains: every `rl.evaluate_every_steps` steps, evaluation sets are sampled.

With a pool or a process beside the trainer it runs in a thread of its own, and the sampler keeps its weights until it
has ended; the trainer continues meanwhile as far as `rl.staleness` allows. With an engine inside, each rank samples its
share between two steps. A point of the curve is a line of evaluation.jsonl, with an interval whose unit is the problem.
An evaluation that was killed is repeated.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from transformers import PreTrainedTokenizerBase

from tasks.rl.ahead import num_rows
from tasks.rl.best import Point
from tasks.rl.sampling import is_mine
from tasks.rl.spec import RlStage
from tasks.rl.state import Progress
from tasks.shared.config import EvaluateConfig, EvaluateStage
from tasks.shared.contract.environment import rank
from tasks.shared.contract.stage import StageContext
from tasks.shared.estimates import Outcome, avg_at_k
from tasks.shared.evaluation.problems import EvaluationProblem, SampleRequest, read_problems, sample_requests
from tasks.shared.evaluation.sampling import Sampler, encoded_prompts, take_all
from tasks.shared.generation.protocol import AsksBeside, Decodes, Generator
from tasks.shared.learning.distributed import from_first_rank, gather_from_ranks
from tasks.shared.learning.json_lines import JsonLines
from tasks.shared.reporting.samples import Sample
from tasks.shared.tools.protocol import Tool

EVALUATION_FILE = "evaluation.jsonl"
Grade = tuple[str, str, bool]  # set, problem, correct


class Evaluation:
    """The evaluations of one round, whose points are its curve. Close it."""

    def __init__(
        self,
        context: StageContext[RlStage],
        generator: Generator,
        tool: Tool | None,
        tokenizer: PreTrainedTokenizerBase,
        progress: Progress,
    ) -> None:
        """ValueError for an unknown set or a prompt that is too long."""
        config = context.config
        self._every = config.rl.evaluate_every_steps
        self._staleness = config.rl.staleness
        self._last_step = progress.first_step + config.rl.steps_per_round
        self._generation = config.generation
        beside = isinstance(generator, AsksBeside)
        decoder: Decodes = generator.beside() if isinstance(generator, AsksBeside) else generator
        # As many as fill the engine alone; beside a sampler with as many, each gets half of the rows.
        most_alive = num_rows(config.generation) if beside else None
        self._sampler = Sampler(evaluation_config(config), decoder, tool, tokenizer, most_alive)
        problems = _chosen(read_problems(context.input("evaluation_sets")), config.rl.evaluate_sets)
        self._requests = list(sample_requests(problems, config.rl.evaluate_samples, context.request.seed))
        encoded_prompts(self._sampler.config, tokenizer, problems)
        self._lines = JsonLines(context.scratch / EVALUATION_FILE, progress.step) if rank() == 0 else None
        self._thread = ThreadPoolExecutor(1, "evaluation") if beside else None
        self._running: tuple[Progress, Future[list[Grade]]] | None = None

    @property
    def points(self) -> list[Point]:
        """The curve so far; in the first rank."""
        return self._lines.read() if self._lines is not None else []

    def is_due(self, progress: Progress) -> bool:
        """Whether to evaluate the weights after `progress.step` steps; the same in every rank.

        Every `evaluate_every_steps` steps, before the first step of all, and after the last one of the round.
        """
        step = progress.step
        if step == progress.first_step and progress.round > 1:  # the last step of the round before
            return False
        return step % self._every == 0 or step == self._last_step

    def has(self, step: int) -> bool:
        """Whether there is a point of that step; in the first rank."""
        return any(point["step"] == step for point in self.points)

    @property
    def running(self) -> int | None:
        """The step whose weights are being evaluated beside the round."""
        return self._running[0].step if self._running is not None else None

    def keeps_weights(self, progress: Progress) -> bool:
        """Whether the sampler keeps its weights although those of `progress` are ready; the same in every rank.

        It does while they are evaluated, unless another evaluation is due, or what they sample would be more than
        `rl.staleness` steps old.
        """
        keeps = False
        if self._running is not None and not self._running[1].done():
            keeps = progress.step - self._running[0].step <= self._staleness and not self.is_due(progress)
        return from_first_rank(keeps)

    def begin(self, progress: Progress) -> None:
        """Evaluate the current weights, beside the round if the engine is."""
        if self._thread is None:
            share = [r for place, r in enumerate(self._requests) if is_mine(self._generation, place)]
            self._note(progress, gather_from_ranks(self._take(share)))
        elif rank() == 0:
            self._running = progress, self._thread.submit(self._take, self._requests)

    def finish(self) -> None:
        """Wait for the evaluation beside the round."""
        if self._running is not None:
            progress, grades = self._running
            self._running = None
            self._note(progress, grades.result())

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _take(self, requests: Sequence[SampleRequest]) -> list[Grade]:
        """The grades of these samples, without those under which the sandbox failed every time."""
        taken: list[Sample] = []
        take_all(self._sampler, requests, taken.append)
        return sorted((sample.set, sample.problem_id, sample.correct) for sample in taken)

    def _note(self, progress: Progress, grades: Sequence[Grade]) -> Point:
        """Make a point; write it in the first rank."""
        point = {"step": progress.step, "round": progress.round, **measures(grades, len(self._requests))}
        if self._lines is not None:
            self._lines.append(point)
        return point


def evaluation_config(config: RlStage) -> EvaluateStage:
    """The round's configuration as that of an evaluation."""
    rl = config.rl
    protocol = EvaluateConfig(
        samples_per_problem=rl.evaluate_samples, temperature=rl.temperature, top_p=rl.evaluate_top_p
    )
    sections = {name: getattr(config, name) for name in ("model", "traces", "sandbox", "generation")}
    return EvaluateStage(**sections, evaluate=protocol)


def _chosen(problems: Sequence[EvaluationProblem], names: Sequence[str]) -> list[EvaluationProblem]:
    """The problems of the named sets, or all. ValueError for an unknown set."""
    there = list(dict.fromkeys(problem.set for problem in problems))
    unknown = [name for name in names if name not in there]
    if unknown:
        raise ValueError(
            f"rl.evaluate_sets: no set '{unknown[0]}' was prepared; there are {', '.join(there)}"
        )
    return [problem for problem in problems if not names or problem.set in names]


def measures(grades: Sequence[Grade], num_requested: int) -> Point:
    """Accuracy with its 95 % interval over problems for each set, and their mean, by which `rl.keep = "best"` chooses.

    `void`: samples without a grade, because the sandbox failed under them. Without any grade the mean is None.
    """
    sets: dict[str, dict[str, list[Outcome]]] = {}
    for name, problem, correct in grades:
        sets.setdefault(name, {}).setdefault(problem, []).append(Outcome(correct, None))
    point: Point = {"samples": len(grades), "void": num_requested - len(grades)}
    accuracies = {name: avg_at_k(outcomes) for name, outcomes in sorted(sets.items())}
    for name, accuracy in accuracies.items():
        point |= {
            f"{name}/accuracy": accuracy.value,
            f"{name}/low": accuracy.interval.low,
            f"{name}/high": accuracy.interval.high,
        }
    point["accuracy"] = sum(a.value for a in accuracies.values()) / len(sets) if sets else None
    return point
