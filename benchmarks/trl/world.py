"""What the comparisons with TRL train on: problems of the tiny world, traces, and a model that writes code.

    python -m benchmarks.trl.world <directory>

writes the model of benchmarks/rl.py and its problems. The model is fine-tuned for minutes on the problems that it then
samples for: enough to write programs and to end answers.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from benchmarks.taught import DIALECT, MODEL, encode
from benchmarks.trl import settings
from data.families import TRAIN_FAMILIES
from data.problems import Problem, Split, generate
from data.wording import CHECK_OPENINGS, CODE_CLOSINGS, CODE_OPENINGS, restate
from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.sft.steps import plan_steps
from tasks.sft.training import train_step
from tasks.shared.config import LoraConfig, OptimizerConfig, TinyModel
from tasks.shared.learning.checkpoints import load_model, load_tokenizer, save_checkpoint
from tasks.shared.learning.engine import TrainingEngine, learning_rate_at
from tasks.shared.learning.packing import TrainSequence

NUM_TRACES = 4000
NUM_TAUGHT = 64  # problems that RL samples for
TEACHING_STEPS = 240
IGNORED = -100  # label of a token outside the loss
CHECK_SHARE = 0.25  # traces with a second program
FAMILIES = {family.name: family for family in TRAIN_FAMILIES}


def write_trace(problem: Problem, rng: random.Random) -> str:
    """A right trace: one or two programs of the family, whose output is the answer."""
    answer = str(problem.answer)
    sentences = [f"{rng.choice(CODE_OPENINGS)} {restate(problem.problem)}"]
    sentences += [rng.choice(CHECK_OPENINGS)] if rng.random() < CHECK_SHARE else []
    programs = rng.sample(FAMILIES[problem.family].programs, k=len(sentences))
    blocks = [
        f"{sentence}\n{DIALECT.write_call(program.format(**problem.params))}{DIALECT.feedback(answer)}"
        for sentence, program in zip(sentences, programs, strict=True)
    ]
    return "".join([*blocks, rng.choice(CODE_CLOSINGS), "\n", DIALECT.write_answer(answer)])


def make_sequences(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], count: int = NUM_TRACES
) -> list[TrainSequence]:
    """`count` traces as trainers get them."""
    rng = random.Random(0)
    return [
        encode(tokenizer, problem.problem, write_trace(problem, rng))
        for problem in islice(cycle(problems), count)
    ]


def write_sequences(sequences: Sequence[TrainSequence], path: Path) -> None:
    """Write tokenized data for TRL: `labels` are the ids in the loss, -100 elsewhere."""
    rows = [{"input_ids": sequence.ids, "labels": _labels(sequence)} for sequence in sequences]
    pd.DataFrame(rows).to_parquet(path)


def read_sequences(path: Path) -> list[TrainSequence]:
    """Read what `write_sequences` wrote."""
    table = pd.read_parquet(path)
    return [
        TrainSequence(ids, labels != IGNORED)
        for ids, labels in zip(table["input_ids"], table["labels"], strict=True)
    ]


def write_rows(
    sequences: Sequence[TrainSequence], path: Path, seed: int, tokens: int = settings.TOKENS_PER_STEP
) -> None:
    """Write the steps of `sft_steps` as rows in TRL's terms: ids, labels, sequence lengths, and the step's rate."""
    rows = [
        {
            "input_ids": np.concatenate([sequence.ids for sequence in step]),
            "labels": np.concatenate([_labels(sequence) for sequence in step]),
            "seq_lengths": [len(sequence.ids) for sequence in step],
            "learning_rate": learning_rate_at(sft_optimizer(), number, settings.SFT_STEPS),
        }
        for number, step in enumerate(sft_steps(sequences, settings.SFT_STEPS, seed, tokens))
    ]
    pd.DataFrame(rows).to_parquet(path)


def _labels(sequence: TrainSequence) -> np.ndarray:
    return np.where(sequence.loss_mask, sequence.ids, IGNORED)


def sft_optimizer(lora: bool = False) -> OptimizerConfig:
    """The tiny recipe's optimizer, for both sides; for every weight, or for adapters."""
    return OptimizerConfig(
        learning_rate=settings.SFT_LEARNING_RATE,
        warmup_steps=settings.WARM_UP_STEPS,
        schedule="cosine",
        weight_decay=settings.WEIGHT_DECAY,
        betas=settings.BETAS,
        max_grad_norm=settings.MAX_GRAD_NORM,
        zero_stage=0,
        lora=LoraConfig(rank=settings.LORA_RANK, alpha=settings.LORA_ALPHA) if lora else None,
    )


def sft_steps(
    sequences: Sequence[TrainSequence], count: int, seed: int, tokens: int = settings.TOKENS_PER_STEP
) -> list[list[TrainSequence]]:
    """The sequences of each of `count` optimizer steps of at most `tokens` tokens."""
    lengths = [len(sequence.ids) for sequence in sequences]
    steps = plan_steps(lengths, epochs=1000, tokens_per_step=tokens, max_steps=count, seed=seed)
    return [[sequences[index] for index in step] for step in steps]


def make_taught(directory: Path) -> None:
    """Write a checkpoint that writes code, and the problems that stage `rl` is to read, into two folders."""
    torch.set_num_threads(1)
    checkpoint, problems = directory / "checkpoint", directory / "problems"
    checkpoint.mkdir()
    problems.mkdir()
    chosen = generate(Split.TRAIN, NUM_TAUGHT, seed=0)
    make_tiny_checkpoint(TinyModel(), 0, checkpoint)
    model, tokenizer = load_model(checkpoint, MODEL), load_tokenizer(checkpoint)
    engine = TrainingEngine(model, sft_optimizer(), total_steps=TEACHING_STEPS)
    for step in sft_steps(make_sequences(tokenizer, chosen), TEACHING_STEPS, seed=0):
        record = train_step(engine, step, settings.TOKENS_PER_STEP)
    print(f"taught for {engine.num_steps} steps, loss {record.loss:.3f}")
    model.set_attn_implementation("sdpa")
    save_checkpoint(model, tokenizer, checkpoint)
    table = pd.DataFrame([asdict(problem) for problem in chosen])[["id", "problem", "answer", "family"]]
    table = table.assign(answer=table["answer"].astype(str), source="tiny")
    table.to_parquet(problems / "train.parquet")


if __name__ == "__main__":
    make_taught(Path(sys.argv[1]))
