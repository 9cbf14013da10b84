"""Draws a round's curve between the phases of a step: evaluates when it is due, and keeps the best weights."""

from collections.abc import Sequence
from pathlib import Path

from tasks.rl.best import BestWeights, Point, best_of
from tasks.rl.evaluation import Evaluation, Grade
from tasks.rl.records import RoundRecords
from tasks.rl.spec import RlStage
from tasks.rl.state import Progress
from tasks.shared.contract.environment import rank, world_size
from tasks.shared.contract.stage import StageContext
from tasks.shared.generation.protocol import Generator
from tasks.shared.learning.checkpoints import load_tokenizer, save_checkpoint
from tasks.shared.learning.distributed import from_first_rank
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.tools.protocol import Tool


class Curve(Evaluation):
    """The evaluations of one round; with `rl.keep = "best"` also the best weights."""

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
        super().__init__(context, generator, tool, self._tokenizer, progress)
        self._engine = engine
        self._records = records
        self._saved = progress.step
        self._keeps_best = context.config.rl.keep == "best"
        self._weights: BestWeights | None = None
        if self._keeps_best and rank() == 0:
            fingerprint = context.fingerprint(world_size())
            self._weights = BestWeights(context.scratch / "best", fingerprint, progress.step)

    def at(self, progress: Progress) -> None:
        """Evaluate the sampler's weights, those after `progress.step` steps, if it is time."""
        if not self.is_due(progress) or from_first_rank(self.has(progress.step)):
            return
        self.finish()
        if self._keeps_best and progress.step:
            state_dict = self._engine.state_dict()
            if self._weights is not None:
                model, tokenizer = self._engine.module, self._tokenizer
                self._weights.write(
                    progress.step, lambda path: save_checkpoint(model, tokenizer, path, state_dict)
                )
        self.begin(progress)

    def saved(self, step: int) -> None:
        """Note that a killed round would resume from `step`."""
        self._saved = step
        self._prune()

    def best(self) -> tuple[Point, Path] | None:
        """The best point of this round and the path of its weights, in the first rank; None if there is none."""
        point = best_of(self.points)
        return (point, self._weights.path_of(point)) if point and self._weights is not None else None

    def _note(self, progress: Progress, grades: Sequence[Grade]) -> Point:
        point = super()._note(progress, grades)
        if self._records is not None:
            self._records.log_evaluation(point)
            self._prune()
        return point

    def _prune(self) -> None:
        if self._weights is not None:
            self._weights.prune(self.points, self._saved, self.running)
