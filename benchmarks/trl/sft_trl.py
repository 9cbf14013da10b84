"""TRL's SFTTrainer with its own packing, a lap each optimizer step; started by benchmarks/sft.py.

    .venv-trl/bin/python -m benchmarks.trl.sft_trl <checkpoint> <sequences.parquet> <seed>

Runs in TRL's own environment. The sequences come tokenized, with the same tokens in the loss as on the other side.
"""

import sys
import tempfile
from typing import Any

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


def configuration(output_dir: str, seed: int) -> SFTConfig:
    """The same optimizer and schedule; what is not named is TRL's default."""
    return SFTConfig(
        output_dir=output_dir,
        max_steps=settings.SFT_STEPS,
        packing=True,
        max_length=settings.TOKENS_PER_STEP,
        per_device_train_batch_size=1,
        learning_rate=settings.SFT_LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=settings.WARM_UP_STEPS,
        adam_beta1=settings.BETAS[0],
        adam_beta2=settings.BETAS[1],
        weight_decay=settings.WEIGHT_DECAY,
        max_grad_norm=settings.MAX_GRAD_NORM,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=seed,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
    )


def main() -> None:
    """Train for as long as turns come."""
    track = Track()
    checkpoint, sequences, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32"),
            processing_class=AutoTokenizer.from_pretrained(checkpoint),
            args=configuration(output_dir, seed),
            train_dataset=Dataset.from_parquet(sequences, cache_dir=output_dir),
            callbacks=[Laps(track)],
        )
        trainer.train()


if __name__ == "__main__":
    main()
