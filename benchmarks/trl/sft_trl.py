"""TRL's SFTTrainer, a lap each optimizer step. benchmarks/sft.py and benchmarks/lora.py start it.

    .venv-trl/bin/python -m benchmarks.trl.sft_trl <checkpoint> <sequences.parquet | rows.parquet> [adapter]

Runs in TRL's own environment. Sequences are tokenized, with the same tokens in the loss as on the other side; TRL
packs, orders and schedules them. Rows (`world.write_rows`) are packed: TRL takes one a step, in their order and at
their rates. With an adapter (PEFT's files) it trains only that.
"""

import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from benchmarks.trl import settings
from benchmarks.trl.laps import Track


class Laps(TrainerCallback):
    """Ends a lap where the trainer logs a step."""

    def __init__(self, track: Track) -> None:
        self.track = track
        self.num_tokens = 0.0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Called by the trainer; `num_tokens` is a running total."""
        if "loss" in logs:
            tokens, self.num_tokens = logs["num_tokens"] - self.num_tokens, logs["num_tokens"]
            self.track.lap(tokens=tokens, loss=float(logs["loss"]))


class PlannedTrainer(SFTTrainer):
    """SFTTrainer with a given rate for each step."""

    rates: list[float]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Called by the trainer; the last rate stays."""
        last = len(self.rates) - 1
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer,
            lambda step: self.rates[min(step, last)] / self.args.learning_rate,
        )
        return self.lr_scheduler


def configuration(output_dir: str, packed: bool) -> SFTConfig:
    """The same optimizer and schedule; all else is TRL's default. `packed`: the data are rows."""
    return SFTConfig(
        output_dir=output_dir,
        max_steps=settings.SFT_STEPS,
        packing=not packed,
        padding_free=True,
        train_sampling_strategy="sequential" if packed else "random",
        dataset_kwargs={"skip_prepare_dataset": packed},
        max_length=None if packed else settings.TOKENS_PER_STEP,
        per_device_train_batch_size=1,
        learning_rate=settings.SFT_LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=settings.WARM_UP_STEPS,
        adam_beta1=settings.BETAS[0],
        adam_beta2=settings.BETAS[1],
        weight_decay=settings.WEIGHT_DECAY,
        max_grad_norm=settings.MAX_GRAD_NORM,
        **settings.TRL_ARGUMENTS,
    )


def main() -> None:
    """Train until no turn comes."""
    track = Track()
    checkpoint, path, *adapter = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32")
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter[0], is_trainable=True)
    with tempfile.TemporaryDirectory() as output_dir:
        data = Dataset.from_parquet(path, cache_dir=output_dir)
        packed = "seq_lengths" in data.column_names
        trainer = (PlannedTrainer if packed else SFTTrainer)(
            model=model,
            processing_class=AutoTokenizer.from_pretrained(checkpoint),
            args=configuration(output_dir, packed),
            train_dataset=data.remove_columns("learning_rate") if packed else data,
            callbacks=[Laps(track)],
        )
        if packed:
            trainer.rates = list(data["learning_rate"])
        trainer.train()


if __name__ == "__main__":
    main()
