"""The SFT loop: pack, forward and backward a micro-batch at a time, step, log, checkpoint; resumable at any moment."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tasks.sft.spec import SftConfig, SftStage
from tasks.sft.validation import VALIDATION_FILE, validate
from tasks.shared.contract.environment import rank, world_size
from tasks.shared.contract.scratch import require_same
from tasks.shared.contract.stage import StageContext
from tasks.shared.learning.distributed import sum_over_ranks
from tasks.shared.learning.engine import TrainingEngine
from tasks.shared.learning.json_lines import JsonLines
from tasks.shared.learning.packing import TrainSequence
from tasks.shared.learning.sinks import MetricsSinks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of metrics.jsonl. Nothing here depends on the clock: the same request gives the same bytes."""

    step: int  # from 1
    loss: float  # mean -log-prob of the trained tokens, in nats
    learning_rate: float
    grad_norm: float  # before clipping
    sequences: int
    tokens: int  # all tokens of the step, over all ranks
    trained_tokens: int  # those in the loss
    skipped: bool = False  # its gradient was not finite or over the bound: the weights stayed as they were


def train_step(engine: TrainingEngine, sequences: Sequence[TrainSequence], row_tokens: int) -> StepRecord:
    """One optimizer step on `sequences`, distributed over the ranks in rows of at most `row_tokens` tokens.

    loss = -sum of log-probs / number of trained tokens, both over the whole step and all ranks.
    """
    # Every rank knows the whole step, so the denominator needs no communication.
    denominator = sum(int(sequence.loss_mask[1:].sum()) for sequence in sequences)
    learning_rate = engine.learning_rate
    loss = 0.0
    for row in engine.rows(sequences, row_tokens):
        share = -engine.token_logprobs(row).sum() / denominator
        engine.backward(share)
        loss += float(share.detach())
    grad_norm = engine.step()
    return StepRecord(
        step=engine.num_steps,
        loss=sum_over_ranks(loss),
        learning_rate=learning_rate,
        grad_norm=grad_norm,
        sequences=len(sequences),
        tokens=sum(len(sequence.ids) for sequence in sequences),
        trained_tokens=denominator,
        skipped=engine.skipped,
    )


class Trainer:
    """Engine, data and records of one SFT run; `train` runs the remaining steps."""

    def __init__(
        self,
        context: StageContext[SftStage],
        model: "PreTrainedModel",
        sequences: Sequence[TrainSequence],
        steps: Sequence[Sequence[int]],
        held_out: Sequence[TrainSequence] = (),
    ) -> None:
        """`held_out`: traces whose loss is measured during training."""
        self._context = context
        self._config: SftConfig = context.config.sft
        self._sequences = sequences
        self._steps = steps
        self._checkpoints = context.scratch / "checkpoints"
        self._checkpoints.mkdir(exist_ok=True)
        self._held_out = held_out
        self._metrics: JsonLines | None = None  # in the first rank
        self.validation: JsonLines | None = None  # in the first rank, if traces are held out
        self.engine = TrainingEngine(model, self._config.optimizer, total_steps=len(steps))

    def train(self) -> tuple[list[StepRecord], float]:
        """Resume from a checkpoint, if there is one, and run to the last step.

        Returns the record of every step (in the first rank), and the tokens per second of the steps that this process
        ran, over all ranks. The state after the last step is saved too, so that a failed publication can be repeated.
        """
        records = self._resume()
        tokens, seconds, shown = 0, 0.0, 0.0
        names = self._config.sinks if rank() == 0 else ()
        with closing(MetricsSinks(names, self._context.request, self.engine.num_steps)) as sinks:
            if self.engine.num_steps == 0:
                self._validate(sinks)
            for step in range(self.engine.num_steps, len(self._steps)):
                started = time.perf_counter()
                chosen = [self._sequences[index] for index in self._steps[step]]
                record = train_step(self.engine, chosen, self._config.tokens_per_micro_batch)
                seconds += time.perf_counter() - started
                tokens += record.tokens
                records.append(record)
                if self._metrics is not None:
                    self._metrics.append(asdict(record))
                    sinks.log(record.step, asdict(record))
                is_last = record.step == len(self._steps)
                if is_last or record.step % (self._config.evaluate_every_steps or 1) == 0:
                    self._validate(sinks)
                if is_last or time.monotonic() - shown > 1:
                    shown = time.monotonic()
                    self._show(record, tokens / seconds)
                if is_last or record.step % self._config.checkpoint_every_steps == 0:
                    self.engine.save(self._checkpoints, {"request": self._context.fingerprint(world_size())})
        return records, tokens / seconds if seconds else 0.0

    def _validate(self, sinks: MetricsSinks) -> None:
        """Record the loss on held-out traces, if there are any."""
        if not self._held_out:
            return
        record = validate(self.engine, self._held_out, self._config.tokens_per_micro_batch)
        if self.validation is not None:
            self.validation.append(asdict(record))
            sinks.log(record.step, {"validation_loss": record.loss})

    def _show(self, record: StepRecord, tokens_per_s: float) -> None:
        self._context.progress(
            record.step,
            len(self._steps),
            loss=round(record.loss, 4),
            learning_rate=record.learning_rate,
            grad_norm=round(record.grad_norm, 3),
            tokens_per_s=round(tokens_per_s),
        )

    def _resume(self) -> list[StepRecord]:
        """Records of the completed steps, whose lines stay in metrics.jsonl; later lines are cut off."""
        state = self.engine.resume(self._checkpoints)
        if state is not None:
            fingerprint = self._context.fingerprint(world_size())
            require_same(state["request"], fingerprint, self._checkpoints, "checkpoints")
        done, scratch = self.engine.num_steps, self._context.scratch
        if done:
            self._context.log(f"resuming after step {done} of {len(self._steps)}")
        if rank() != 0:
            return []
        if self._held_out:
            self.validation = JsonLines(scratch / VALIDATION_FILE, done)
        self._metrics = JsonLines(scratch / "metrics.jsonl", done)
        return [StepRecord(**line) for line in self._metrics.read()]
