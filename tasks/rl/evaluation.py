"""Evaluation while a round trains: every `rl.evaluate_every_steps` steps, evaluation sets are sampled.

With a pool or a process beside the trainer it runs in a thread of its own, and the sampler keeps its weights until it
has ended; the trainer continues meanwhile as far as `rl.staleness` allows. With an engine inside, each rank samples its
share between two steps. A point of the curve is a line of evaluation.jsonl, with an interval whose unit is the problem.
An evaluation that was killed is repeated.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tasks.rl.ahead import num_rows
from tasks.rl.best import BestWeights, Point, best_of
from tasks.rl.records import RoundRecords
from tasks.rl.sampling import is_mine
from tasks.rl.spec import RlStage
from tasks.rl.state import Progress
from tasks.shared.config import EvaluateConfig, EvaluateStage
from tasks.shared.contract.environment import rank, world_size
from tasks.shared.contract.stage import StageContext
from tasks.shared.estimates.accuracy import Outcome, avg_at_k
from tasks.shared.evaluation.problems import EvaluationProblem, SampleRequest, read_problems, sample_requests
from tasks.shared.evaluation.sampling import Sampler, encoded_prompts, take_all
from tasks.shared.generation.protocol import AsksBeside, Decodes, Generator
from tasks.shared.learning.checkpoints import load_tokenizer, save_checkpoint
from tasks.shared.learning.distributed import from_first_rank, gather_from_ranks
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.json_lines import JsonLines
from tasks.shared.reporting.samples import Sample
from tasks.shared.tools.protocol import Tool

EVALUATION_FILE = "evaluation.jsonl"
Grade = tuple[str, str, bool]  # set, problem, correct


class Curve:
    """The evaluations of one round, and with `rl.keep = "best"` its best weights. Close it."""

    def __init__(
        self,
        context: StageContext[RlStage],
        engine: TrainingEngine,
        generator: Generator,
        tool: Tool | None,
        progress: Progress,
        records: RoundRecords | None,
    ) -> None:
        """ValueError for an unknown set or a prompt that is too long."""
        config = context.config
        self._config = config
        self._engine = engine
        self._records = records
        self._last_step = progress.first_step + config.rl.steps_per_round
        # its own tokenizer, because it encodes and decodes in another thread
        self._tokenizer = load_tokenizer(context.input("checkpoint"))
        beside = isinstance(generator, AsksBeside)
        decoder: Decodes = generator.beside() if isinstance(generator, AsksBeside) else generator
        # As many as fill the engine alone; beside a sampler with as many, each gets half of the rows.
        most_alive = num_rows(config.generation) if beside else None
        self._sampler = Sampler(evaluation_config(config), decoder, tool, self._tokenizer, most_alive)
        problems = _chosen(read_problems(context.input("evaluation_sets")), config.rl.evaluate_sets)
        self._requests = list(sample_requests(problems, config.rl.evaluate_samples, context.request.seed))
        encoded_prompts(self._sampler.config, self._tokenizer, problems)
        self._thread = ThreadPoolExecutor(1, "evaluation") if beside else None
        self._running: tuple[Progress, Future[list[Grade]]] | None = None  # beside the round
        self._saved = progress.step
        self._lines: JsonLines | None = None  # in the first rank, as the weights
        self._weights: BestWeights | None = None
        if rank() == 0:
            self._lines = JsonLines(context.scratch / EVALUATION_FILE, progress.step)
            if config.rl.keep == "best":
                fingerprint = context.fingerprint(world_size())
                self._weights = BestWeights(context.scratch / "best", fingerprint, progress.step)

    def at(self, progress: Progress) -> None:
        """Evaluate the sampler's weights, those after `progress.step` steps, if it is time.

        Beside the round if the engine is, else in every rank, which samples its share.
        """
        if not self._is_due(progress):
            return
        if from_first_rank(any(point["step"] == progress.step for point in self._points)):
            return  # a round that was killed has it already
        self.finish()
        if self._config.rl.keep == "best" and progress.step:
            state_dict = self._engine.state_dict()
            if self._weights is not None:
                model, tokenizer = self._engine.module, self._tokenizer
                self._weights.write(
                    progress.step, lambda path: save_checkpoint(model, tokenizer, path, state_dict)
                )
        if self._thread is None:
            generation = self._config.generation
            share = [r for place, r in enumerate(self._requests) if is_mine(generation, place)]
            self._note(progress, gather_from_ranks(self._take(share)))
        elif rank() == 0:
            self._running = progress, self._thread.submit(self._take, self._requests)

    def keeps_weights(self, progress: Progress) -> bool:
        """Whether the sampler keeps its weights although those of `progress` are ready; the same in every rank.

        It does while they are evaluated, unless another evaluation is due, or what they sample would be more than
        `rl.staleness` steps old.
        """
        keeps = False
        if self._running is not None and not self._running[1].done():
            age = progress.step - self._running[0].step
            keeps = age <= self._config.rl.staleness and not self._is_due(progress)
        return from_first_rank(keeps)

    def finish(self) -> None:
        """Wait for the evaluation beside the round."""
        if self._running is not None:
            progress, grades = self._running
            self._running = None
            self._note(progress, grades.result())

    def saved(self, step: int) -> None:
        """Note that a killed round would resume from `step`."""
        self._saved = step
        self._prune()

    def best(self) -> tuple[Point, Path] | None:
        """The best point of this round and the path of its weights, in the first rank; None if there is none."""
        point = best_of(self._points)
        return (point, self._weights.path_of(point)) if point and self._weights is not None else None

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def _points(self) -> list[Point]:
        """The curve so far, in the first rank."""
        return self._lines.read() if self._lines is not None else []

    def _is_due(self, progress: Progress) -> bool:
        """Whether to evaluate the weights after `progress.step` steps; the same in every rank.

        Every `evaluate_every_steps` steps, before the first step of all, and after the last one of the round.
        """
        step = progress.step
        if step == progress.first_step and progress.round > 1:  # the last step of the round before
            return False
        return step % self._config.rl.evaluate_every_steps == 0 or step == self._last_step

    def _take(self, requests: Sequence[SampleRequest]) -> list[Grade]:
        """The grades of these samples, without those under which the sandbox failed every time."""
        taken: list[Sample] = []
        take_all(self._sampler, requests, taken.append)
        return sorted((sample.set, sample.problem_id, sample.correct) for sample in taken)

    def _note(self, progress: Progress, grades: Sequence[Grade]) -> None:
        """Write a point of the curve, in the first rank."""
        if self._lines is None or self._records is None:
            return
        point = {"step": progress.step, "round": progress.round, **measures(grades, len(self._requests))}
        self._lines.append(point)
        self._records.log_evaluation(point)
        self._prune()

    def _prune(self) -> None:
        if self._weights is not None:
            running = self._running[0].step if self._running is not None else None
            self._weights.prune(self._points, self._saved, running)


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
