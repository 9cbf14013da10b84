"""What is trained on in the comparisons with TRL: problems of the tiny world, traces, and a model that writes code.

    python -m benchmarks.trl.world <checkpoint> <problems.parquet>

makes the model of benchmarks/rl.py, fine-tuned for minutes on the problems that it then samples for: enough to write
programs and to end answers.
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

from benchmarks.trl import settings
from data.families import TRAIN_FAMILIES
from data.problems import Problem, Split, generate
from data.wording import CHECK_OPENINGS, CODE_CLOSINGS, CODE_OPENINGS, restate
from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.sft.steps import plan_steps
from tasks.sft.training import train_step
from tasks.shared.config import ModelConfig, OptimizerConfig, TinyModel
from tasks.shared.config.training import LoraConfig
from tasks.shared.learning.checkpoints import load_model, load_tokenizer, save_checkpoint
from tasks.shared.learning.engine import TrainingEngine, learning_rate_at
from tasks.shared.learning.packing import TrainSequence
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.encoding import encode_trace

MODEL = ModelConfig(source="tiny", dtype="float32")
NUM_TRACES = 4000
NUM_TAUGHT = 64  # problems that RL samples for
TEACHING_STEPS = 240
IGNORED = -100  # label of a token outside the loss
CHECK_SHARE = 0.25  # traces with a second program
FAMILIES = {family.name: family for family in TRAIN_FAMILIES}


def write_trace(problem: Problem, rng: random.Random) -> str:
    """A right trace: one program or two, the family's own, whose output is the answer."""
    dialect, answer = DIALECTS["retool"], str(problem.answer)
    sentences = [f"{rng.choice(CODE_OPENINGS)} {restate(problem.problem)}"]
    sentences += [rng.choice(CHECK_OPENINGS)] if rng.random() < CHECK_SHARE else []
    programs = rng.sample(FAMILIES[problem.family].programs, k=len(sentences))
    blocks = [
        f"{sentence}\n{dialect.write_call(program.format(**problem.params))}{dialect.feedback(answer)}"
        for sentence, program in zip(sentences, programs, strict=True)
    ]
    return "".join([*blocks, rng.choice(CODE_CLOSINGS), "\n", dialect.write_answer(answer)])


def make_sequences(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], count: int = NUM_TRACES
) -> list[TrainSequence]:
    """`count` traces as trainers get them: ids, and the loss on the assistant's own tokens alone."""
    rng, sequences = random.Random(0), []
    for problem in islice(cycle(problems), count):
        encoded = encode_trace(
            tokenizer, DIALECTS["retool"], problem.problem, write_trace(problem, rng), instructed=False
        )
        loss_mask = (False,) * len(encoded.prompt_ids) + encoded.loss_mask
        ids = np.array(encoded.prompt_ids + encoded.response_ids)
        sequences.append(TrainSequence(ids, np.array(loss_mask)))
    return sequences


def write_sequences(sequences: Sequence[TrainSequence], path: Path) -> None:
    """As TRL takes tokenized data: `labels` are the ids in the loss, -100 elsewhere."""
    rows = [{"input_ids": sequence.ids, "labels": _labels(sequence)} for sequence in sequences]
    pd.DataFrame(rows).to_parquet(path)


def read_sequences(path: Path) -> list[TrainSequence]:
    """What `write_sequences` wrote."""
    table = pd.read_parquet(path)
    return [
        TrainSequence(ids, labels != IGNORED)
        for ids, labels in zip(table["input_ids"], table["labels"], strict=True)
    ]


def write_rows(
    sequences: Sequence[TrainSequence], path: Path, seed: int, tokens: int = settings.TOKENS_PER_STEP
) -> None:
    """The steps of `sft_steps` as rows in TRL's terms: ids, labels, each sequence's length, and the step's rate."""
    rows = []
    for number, step in enumerate(sft_steps(sequences, settings.SFT_STEPS, seed, tokens)):
        rows.append(
            {
                "input_ids": np.concatenate([sequence.ids for sequence in step]),
                "labels": np.concatenate([_labels(sequence) for sequence in step]),
                "seq_lengths": [len(sequence.ids) for sequence in step],
                "learning_rate": learning_rate_at(sft_optimizer(), number, settings.SFT_STEPS),
            }
        )
    pd.DataFrame(rows).to_parquet(path)


def _labels(sequence: TrainSequence) -> np.ndarray:
    return np.where(sequence.loss_mask, sequence.ids, IGNORED)


def sft_optimizer(lora: bool = False) -> OptimizerConfig:
    """The tiny recipe's, for both sides; of every weight, or of adapters."""
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


def make_base(directory: Path) -> None:
    """The tiny world's checkpoint, randomly initialised."""
    make_tiny_checkpoint(TinyModel(), 0, directory)


def make_taught(directory: Path, problems: Path) -> None:
    """A checkpoint that writes code, and the problems it is to sample for, as stage `rl` reads them."""
    torch.set_num_threads(1)
    chosen = generate(Split.TRAIN, NUM_TAUGHT, seed=0)
    make_base(directory)
    model, tokenizer = load_model(directory, MODEL), load_tokenizer(directory)
    engine = TrainingEngine(model, sft_optimizer(), total_steps=TEACHING_STEPS)
    for step in sft_steps(make_sequences(tokenizer, chosen), TEACHING_STEPS, seed=0):
        record = train_step(engine, step, settings.TOKENS_PER_STEP)
    print(f"taught for {engine.num_steps} steps, loss {record.loss:.3f}")
    model.set_attn_implementation("sdpa")
    save_checkpoint(model, tokenizer, directory)
    table = pd.DataFrame([asdict(problem) for problem in chosen])[["id", "problem", "answer", "family"]]
    table.assign(answer=table["answer"].astype(str), source="tiny").to_parquet(problems)


if __name__ == "__main__":
    make_taught(Path(sys.argv[1]), Path(sys.argv[2]))
