"""The dialects: what ends a turn, which code runs, how output is appended, and that split inverts writing."""

import pytest

from tasks.shared.traces.dialect import DIALECTS, TraceFormatError

RETOOL = DIALECTS["retool"]
TORL = DIALECTS["torl"]
TEXT = DIALECTS["text"]

RETOOL_TURN = "Count them.\n<code>\n```python\nfor i in range(2):\n    print(i)\n```\n</code>"
TORL_TURN = "Count them.\n```python\nfor i in range(2):\n    print(i)\n```\n```output"
CODE = "for i in range(2):\n    print(i)"


@pytest.mark.parametrize(("dialect", "turn"), [(RETOOL, RETOOL_TURN), (TORL, TORL_TURN)])
def test_code_is_read_exactly_as_written(dialect, turn):
    assert dialect.find_call(turn) == CODE
    assert dialect.find_call(turn + "\n") == CODE, "a token may carry characters beyond the stop string"


@pytest.mark.parametrize(
    "turn",
    [
        "no code at all",
        "<code>\nprint(1)\n</code>",
        "```python\nprint(1)\n```\n</code>",
        "<code>\n```python\nprint(1)\n</code>",
    ],
)
def test_a_turn_without_a_whole_block_holds_no_call(turn):
    assert RETOOL.find_call(turn) is None


def test_only_the_last_block_before_the_stop_runs():
    turn = "```python\nprint(1)\n```\nor rather\n```python\nprint(2)\n```\n```output"
    assert TORL.find_call(turn) == "print(2)"


@pytest.mark.parametrize(("dialect", "turn"), [(RETOOL, RETOOL_TURN), (TORL, TORL_TURN)])
def test_split_cuts_where_a_rollout_appends(dialect, turn):
    feedback = dialect.feedback("0\n1")
    end = "So it is two. <answer>\n\\boxed{2}\n</answer>"
    segments = dialect.split(turn + feedback + turn + feedback + end)
    assert [s.text for s in segments] == [turn, feedback, turn, feedback, end]
    assert [s.is_feedback for s in segments] == [False, True, False, True, False]
    assert segments[0].code == CODE
    assert segments[1].observation == "0\n1"


def test_remaining_calls_are_announced_inside_the_feedback():
    assert (
        RETOOL.feedback("7", remaining_calls=2) == "\n<interpreter>\n7\nremaining calls: 2\n</interpreter>\n"
    )


@pytest.mark.parametrize(
    ("dialect", "trace", "rule"),
    [
        (RETOOL, RETOOL_TURN + "\nso 2", "without interpreter output"),
        (RETOOL, RETOOL_TURN + "\n<interpreter>\n2", "not closed"),
        (RETOOL, "I think <interpreter>\n2\n</interpreter>\n", "cannot stand"),
        (RETOOL, "print(1)\n</code>\n<interpreter>\n1\n</interpreter>\n", "without a whole code block"),
        (RETOOL, "see <code>\n```python\nprint(1)", "cannot stand"),
        (RETOOL, "<answer>\\boxed{2}", "not closed"),
        (TORL, "```python\nprint(1)\n```", "cannot stand"),
        (TEXT, "see <code>", "cannot stand"),
    ],
)
def test_broken_traces_are_refused_with_the_rule(dialect, trace, rule):
    with pytest.raises(TraceFormatError, match=rule):
        dialect.split(trace)


def test_text_dialect_runs_nothing():
    assert TEXT.stop is None
    assert TEXT.find_call(RETOOL_TURN) is None
    assert [s.text for s in TEXT.split("2 + 2 is 4. \\boxed{4}")] == ["2 + 2 is 4. \\boxed{4}"]


def test_prompts():
    assert RETOOL.prompt("How many?", instructed=False) == "How many?"
    assert RETOOL.prompt("How many?", instructed=True).endswith("\n\nHow many?")
    assert "\\boxed{...}" in RETOOL.prompt("How many?", instructed=True)


@pytest.mark.parametrize("dialect", [RETOOL, TORL])
def test_a_written_block_is_read_back(dialect):
    assert dialect.find_call("Now.\n" + dialect.write_call(CODE)) == CODE


def test_the_text_dialect_writes_no_block():
    with pytest.raises(ValueError, match="runs no code"):
        TEXT.write_call(CODE)


@pytest.mark.parametrize("dialect", [RETOOL, TORL, TEXT])
def test_a_trace_closes_with_one_answer(dialect):
    end = dialect.write_answer("17")
    assert dialect.closes_with_answer(f"So it is.\n{end}")
    assert not dialect.closes_with_answer("So it is 17.")
    assert not dialect.closes_with_answer(f"{end}\n{end}")
    assert not dialect.closes_with_answer(f"{end} or else")
