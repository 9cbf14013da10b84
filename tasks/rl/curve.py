"""Draws a round's curve between the phases of a step: evaluates when it is due, and keeps the best weights."""

from pathlib import Path

from tasks.rl.best import BestWeights, Point, best_of
from tasks.rl.evaluation import Evaluation
from tasks.rl.records import RoundRecords
from tasks.rl.state import Progress
from tasks.shared.config import RlStage
from tasks.shared.contract.environment import rank, world_size
from tasks.shared.contract.stage import StageContext
from tasks.shared.generation.protocol import Generator
from tasks.shared.learning.checkpoints import load_tokenizer, save_checkpoint
from tasks.shared.learning.distributed import from_first_rank
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.tools.protocol import Tool


class Curve:
    """The evaluations of one round; with `rl.keep = "best"` the weights of the best of them."""

    def __init__(
        self,
        context: StageContext[RlStage],
        engine: TrainingEngine,
        generator: Generator,
        tool: Tool | None,
        progress: Progress,
        records: RoundRecords | None,
    ) -> None:
        # its own tokenizer, because it encodes and decodes in another thread
        self._tokenizer = load_tokenizer(context.input("checkpoint"))
        self._engine = engine
        self._records = records
        self._saved = progress.step
        self._evaluation = Evaluation(context, generator, tool, self._tokenizer, progress)
        self._keeps_best = context.config.rl.keep == "best"
        self._weights: BestWeights | None = None
        if self._keeps_best and rank() == 0:
            self._weights = BestWeights(
                context.scratch / "best", context.fingerprint(world_size()), progress.step
            )

    def at(self, progress: Progress) -> None:
        """Evaluate the sampler's weights, those after `progress.step` steps, if it is time."""
        if not self._evaluation.is_due(progress) or from_first_rank(self._evaluation.has(progress.step)):
            return
        self.finish()
        if self._keeps_best and progress.step:
            state_dict = self._engine.state_dict()
            if self._weights is not None:
                self._weights.write(
                    progress.step,
                    lambda directory: save_checkpoint(
                        self._engine.module, self._tokenizer, directory, state_dict
                    ),
                )
        self._note(self._evaluation.begin(progress))

    def keeps_weights(self, progress: Progress) -> bool:
        """See `Evaluation.keeps_weights`; the same in every rank."""
        return from_first_rank(self._evaluation.keeps_weights(progress))

    def finish(self) -> None:
        """Wait for an evaluation that runs beside the round."""
        self._note(self._evaluation.finish())

    def saved(self, step: int) -> None:
        """Note that a killed round would resume from `step`."""
        self._saved = step
        self._prune()

    def close(self) -> None:
        """End the evaluation's thread."""
        self._evaluation.close()

    @property
    def points(self) -> list[Point]:
        """The curve; in the first rank."""
        return self._evaluation.points

    def best(self) -> tuple[Point, Path] | None:
        """The best point of this round and the path of its weights, in the first rank; None if there is none."""
        point = best_of(self.points)
        return (point, self._weights.path_of(point)) if point and self._weights is not None else None

    def _note(self, point: Point | None) -> None:
        if point is not None and self._records is not None:
            self._records.log_evaluation(point)
            self._prune()

    def _prune(self) -> None:
        if self._weights is not None:
            self._weights.prune(self.points, self._saved, self._evaluation.running)
