"""Stage `sft`: fine-tune a checkpoint on verified traces, loss on the assistant's own tokens only.

    python -m tasks.sft.main request.json

Inputs: `checkpoint` and `traces`. Output: `checkpoint`, with metrics.jsonl (one line a step) in it. With
sft.optimizer.lora also `adapter`, whose base is the input; the checkpoint then holds both merged. With
sft.optimizer.ranks > 1 the stage starts itself again under torchrun. A stage that was killed resumes from its scratch
directory. With sft.validation_share, validation.jsonl lies beside metrics.jsonl: the loss on traces that are held out.
"""

import shutil
import sys
from itertools import compress
from operator import not_

from tasks.sft.spec import SFT, SftStage
from tasks.sft.steps import plan_steps
from tasks.sft.traces import read_training_set
from tasks.sft.training import StepRecord, Trainer
from tasks.sft.validation import VALIDATION_FILE, held_out
from tasks.shared.contract.environment import under_launcher
from tasks.shared.contract.stage import StageContext, StageResult, Value, stage_main
from tasks.shared.learning.adapter import save_adapter
from tasks.shared.learning.checkpoints import load_model, load_tokenizer, save_checkpoint
from tasks.shared.learning.distributed import leave_to_first_rank, run_on_ranks, start_process_group


def run(context: StageContext[SftStage]) -> StageResult:
    """Load, plan, train, publish."""
    config = context.config.sft
    if config.optimizer.ranks > 1 and not under_launcher():
        return run_on_ranks("tasks.sft.main", context, config.optimizer.ranks)
    start_process_group()
    trainer, too_long = _load(context)
    records, tokens_per_s = trainer.train()
    state_dict, adapter = trainer.engine.state_dict(), trainer.engine.adapter()
    leave_to_first_rank()
    metrics = _headline(records) | {"tokens_per_s": round(tokens_per_s), "too_long": too_long}
    if trainer.validation is not None:
        metrics["validation_loss"] = trainer.validation.read()[-1]["loss"]
    tokenizer = load_tokenizer(context.input("checkpoint"))
    with context.output("checkpoint", metrics) as output:
        save_checkpoint(trainer.engine.module, tokenizer, output.directory, state_dict)
        shutil.copyfile(context.scratch / "metrics.jsonl", output.directory / "metrics.jsonl")
        if trainer.validation is not None:
            shutil.copyfile(context.scratch / VALIDATION_FILE, output.directory / VALIDATION_FILE)
    outputs = {"checkpoint": output.ref}
    if config.optimizer.lora:
        base = context.request.inputs["checkpoint"]
        with context.output("adapter", metrics) as output:
            save_adapter(adapter, config.optimizer.lora, base, output.directory)
        outputs["adapter"] = output.ref
    return StageResult(outputs=outputs, metrics=metrics)


def _load(context: StageContext[SftStage]) -> tuple[Trainer, int]:
    """The trainer, and the number of traces that are too long for the model."""
    config = context.config.sft
    checkpoint = context.input("checkpoint")
    model = load_model(checkpoint, context.config.model)
    tokenizer = load_tokenizer(checkpoint)
    max_tokens = getattr(model.config.get_text_config(), "max_position_embeddings", sys.maxsize)
    traces, libraries = context.config.traces, context.config.libraries
    data = read_training_set(context.input("traces"), traces, tokenizer, max_tokens, libraries)
    longest = max(len(sequence.ids) for sequence in data.sequences)
    if longest > config.tokens_per_micro_batch:
        raise ValueError(
            f"sft.tokens_per_micro_batch = {config.tokens_per_micro_batch} is less than the longest trace; "
            f"use {longest} or more"
        )
    is_held_out = held_out(data.problems, config.validation_share, context.request.seed)
    sequences = list(compress(data.sequences, map(not_, is_held_out)))
    validation = list(compress(data.sequences, is_held_out))
    steps = plan_steps(
        [len(sequence.ids) for sequence in sequences],
        epochs=config.epochs,
        tokens_per_step=config.tokens_per_step,
        max_steps=config.max_steps,
        seed=context.request.seed,
    )
    apart = f", {len(validation)} held out for validation" if validation else ""
    context.log(
        f"{len(sequences)} traces{apart}, {data.num_too_long} more longer than {max_tokens} tokens left out; "
        f"{len(steps)} steps of up to {config.tokens_per_step} tokens"
    )
    return Trainer(context, model, sequences, steps, validation), data.num_too_long


def _headline(records: list[StepRecord]) -> dict[str, Value]:
    """The headline metrics."""
    return {
        "steps": len(records),
        "first_loss": records[0].loss,
        "loss": records[-1].loss,
        "tokens": sum(record.tokens for record in records),
        "trained_tokens": sum(record.trained_tokens for record in records),
        "skipped_steps": sum(record.skipped for record in records),
    }


if __name__ == "__main__":
    raise SystemExit(stage_main(SFT, run))
