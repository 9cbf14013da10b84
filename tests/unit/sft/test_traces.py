"""Traces become sequences whose loss is on the assistant's own tokens only; mistakes in the file are named."""

from pathlib import Path

import pandas as pd
import pytest

from tasks.sft.traces import read_training_set
from tasks.shared.config import TracesConfig
from tests.unit.generation.tiny import tiny_tokenizer

CONFIG = TracesConfig(prompt="bare")
CODE = "Sum it.\n<code>\n```python\nprint(1 + 2)\n```\n</code>"
FEEDBACK = "\n<interpreter>\n3\n</interpreter>\n"
ANSWER = "<answer>\n\\boxed{3}\n</answer>"


def write(directory: Path, rows: list[dict[str, str]]) -> Path:
    pd.DataFrame(rows).to_parquet(directory / "train.parquet")
    return directory


def test_prompt_and_interpreter_output_are_masked(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    write(tmp_path, [{"id": "a", "problem": "What is 1 + 2?", "trace": CODE + FEEDBACK + ANSWER}])
    (sequence,) = read_training_set(tmp_path, CONFIG, tokenizer, max_tokens=1000).sequences
    own = [int(token) for token, trained in zip(sequence.ids, sequence.loss_mask, strict=True) if trained]
    rest = [
        int(token) for token, trained in zip(sequence.ids, sequence.loss_mask, strict=True) if not trained
    ]
    assert tokenizer.decode(own) == CODE + ANSWER + tokenizer.eos_token
    assert tokenizer.decode(rest) == f"<|user|>\nWhat is 1 + 2?<|end|>\n<|assistant|>\n{FEEDBACK}"


def test_traces_beyond_the_context_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"id": str(i), "problem": "Add.", "trace": "so " * i + ANSWER} for i in (1, 200)]
    data = read_training_set(write(tmp_path, rows), CONFIG, tiny_tokenizer(), max_tokens=150)
    assert (len(data.sequences), data.num_too_long) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "problem": "Add."}], "no column 'trace'"),
        (
            [{"id": "a", "problem": "Add.", "trace": CODE}],
            "trace 'a' does not follow traces.dialect = 'retool'",
        ),
        ([{"id": "a", "problem": "Add.", "trace": "so " * 500}], "of 1 traces none fits"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_training_set(write(tmp_path, rows), CONFIG, tiny_tokenizer(), max_tokens=150)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.parquet: no such file"):
        read_training_set(tmp_path, CONFIG, tiny_tokenizer(), max_tokens=150)
