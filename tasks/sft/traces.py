"""Verified traces as training sequences: the ids a rollout would see, with the loss on the assistant's own tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as parquet

from tasks.shared.config import TracesConfig
from tasks.shared.learning.packing import TrainSequence
from tasks.shared.traces.dialect import TraceFormatError, dialect_of
from tasks.shared.traces.encoding import encode_trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ["id", "problem", "trace"]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Every trace that training can use."""

    sequences: Sequence[TrainSequence]
    problems: Sequence[str]  # the problem of each
    num_too_long: int  # traces left out because they are longer than the model's context


def read_training_set(
    directory: Path,
    config: TracesConfig,
    tokenizer: "PreTrainedTokenizerBase",
    max_tokens: int,
    libraries: Sequence[str] = (),
) -> TrainingSet:
    """The traces artifact's `train.parquet` as sequences of at most `max_tokens` tokens, in file order.

    `libraries`: those that an instruction names.
    Raises ValueError: no file, a missing column, no rows, a trace that does not follow the dialect, none short enough.
    """
    path = directory / "train.parquet"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run 'synthesize' again")
    present = parquet.read_schema(path).names
    missing = [column for column in COLUMNS if column not in present]
    if missing:
        raise ValueError(f"{path}: no column '{missing[0]}'; traces need {', '.join(COLUMNS)}")
    columns = [name for name in (*COLUMNS, "messages") if name in present]
    rows = parquet.read_table(path, columns=columns).to_pylist()
    sequences = [(row["problem"], _sequence(row, path, config, tokenizer, libraries)) for row in rows]
    short = [(problem, sequence) for problem, sequence in sequences if len(sequence.ids) <= max_tokens]
    if not short:
        raise ValueError(
            f"{path}: of {len(rows)} traces none fits the model's {max_tokens} positions; nothing to learn"
        )
    problems, fitting = zip(*short, strict=True)
    return TrainingSet(fitting, problems, len(rows) - len(short))


def _system(row: dict[str, Any]) -> str:
    """The system message of a trace, "" where its problem had none."""
    messages = row.get("messages") or [{"role": "user"}]
    return str(messages[0]["content"]) if messages[0]["role"] == "system" else ""


def _sequence(
    row: dict[str, Any],
    path: Path,
    config: TracesConfig,
    tokenizer: "PreTrainedTokenizerBase",
    libraries: Sequence[str],
) -> TrainSequence:
    try:
        encoded = encode_trace(
            tokenizer,
            dialect_of(config, libraries),
            row["problem"],
            row["trace"],
            config.prompt == "instructed",
            _system(row),
            config.prompt == "plain",
        )
    except TraceFormatError as error:
        raise ValueError(
            f"{path}: trace '{row['id']}' does not follow traces.dialect = '{config.dialect}': {error}"
        ) from error
    prompt = np.zeros(len(encoded.prompt_ids), dtype=bool)
    return TrainSequence(
        ids=np.array(encoded.prompt_ids + encoded.response_ids, dtype=np.int64),
        loss_mask=np.concatenate([prompt, np.array(encoded.loss_mask, dtype=bool)]),
    )
