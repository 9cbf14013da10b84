"""The cases of `rolled.py`, for whatever tokenizer a suite brings."""

import pytest
from transformers import PreTrainedTokenizerBase

from tasks.shared.traces.dialect import DIALECTS, TraceFormatError
from tasks.shared.traces.encoding import written_trace
from tests.unit.traces.rolled import GAPS, check, check_encoding, roll, turns


@pytest.mark.parametrize("name", ["retool", "torl", "hermes"])
def test_what_is_rolled_out_is_read_back_and_encoded_alike(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    """For any text in the token that completes the stop string, and any output of a program."""
    dialect = DIALECTS[name]
    end = "So it is 3.\n" + dialect.write_answer("3")
    good = turns(dialect)[0]
    scripts = [f"{good}{gap}{end}" for gap in GAPS]
    scripts += [f"{turn}\n{good}\n{end}" for turn in turns(dialect)]
    for script in scripts:
        trajectory = roll(tokenizer, dialect, script)
        check(tokenizer, dialect, trajectory)
        check_encoding(tokenizer, dialect, trajectory)


@pytest.mark.parametrize("name", ["retool", "torl", "hermes"])
def test_every_boundary(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Tokens may end anywhere in a block: its text is divided at each place and at all, and is still read back."""
    dialect = DIALECTS[name]
    end = "\nSo it is 3.\n" + dialect.write_answer("3")
    turn = turns(dialect)[2]

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    cut = [[*encode(turn[:place]), *encode(turn[place:] + end)] for place in range(len(turn) + 1)]
    cut.append([token for char in turn + end for token in encode(char)])
    for ids in cut:
        trajectory = roll(tokenizer, dialect, ids)
        check(tokenizer, dialect, trajectory)
        assert len(trajectory.calls) == 1


@pytest.mark.parametrize("name", ["retool", "torl", "hermes"])
def test_every_length(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """A budget ends a response anywhere: its ids are a prefix of the whole, and no words are read as output."""
    dialect = DIALECTS[name]
    script = f"{turns(dialect)[0]}\nSo it is 3.\n{dialect.write_answer('3')}"
    whole = roll(tokenizer, dialect, script)
    for budget in range(1, len(whole.response_ids)):
        trajectory = roll(tokenizer, dialect, script, budget)
        assert trajectory.response_ids == whole.response_ids[: len(trajectory.response_ids)]
        assert trajectory.unrecognised == trajectory.self_written == 0
        try:
            segments = dialect.split(written_trace(tokenizer, dialect, trajectory.text, trajectory.shown))
        except TraceFormatError:
            continue  # within a block or before its output: no written trace
        assert sum(segment.is_feedback for segment in segments) == len(trajectory.shown)
