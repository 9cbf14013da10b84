"""The dialects: the end of a turn, the code that runs, appended output, and that split inverts writing."""

from dataclasses import replace

import pytest

from tasks.shared.config import TracesConfig
from tasks.shared.traces.call_forms import UNFINISHED
from tasks.shared.traces.dialect import DIALECTS, EXAMPLE_CODE, EXAMPLE_OUTPUT, TraceFormatError, dialect_of

RETOOL = DIALECTS["retool"]
TORL = DIALECTS["torl"]
HERMES = DIALECTS["hermes"]
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
        "<code>\nprint(1)\n```\n</code>",
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
        (RETOOL, "I think <interpreter>\n2\n</interpreter>\n", "in the wrong place"),
        (RETOOL, "print(1)\n</code>\n<interpreter>\n1\n</interpreter>\n", "without a whole code block"),
        (RETOOL, "see <code>\n```python\nprint(1)", "in the wrong place"),
        (RETOOL, "<answer>\\boxed{2}", "not closed"),
        (TORL, "```python\nprint(1)\n```", "in the wrong place"),
        (TEXT, "see <code>", "in the wrong place"),
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


@pytest.mark.parametrize("name", ["retool", "torl"])
def test_instruction_names_the_libraries_of_the_sandbox(name):
    dialect = dialect_of(TracesConfig(dialect=name), ("sympy", "math", "numpy", "scipy"))
    instruction = "Besides the standard library there are sympy, numpy and scipy. "
    assert instruction in dialect.prompt("How many?", instructed=True)
    assert instruction not in dialect_of(TracesConfig(dialect=name)).prompt("How many?", instructed=True)
    assert dialect.prompt("How many?", instructed=False) == "How many?"


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


@pytest.mark.parametrize("dialect", [RETOOL, TORL])
def test_the_instruction_shows_the_exact_form(dialect):
    instruction = dialect.prompt("How many?", instructed=True)
    assert dialect.write_call(EXAMPLE_CODE) in instruction
    assert dialect.feedback(EXAMPLE_OUTPUT).strip("\n") in instruction
    assert dialect.write_answer("...") in instruction


@pytest.mark.parametrize("dialect", [RETOOL, TORL])
@pytest.mark.parametrize(
    "printed",
    ["", "a\n```\nb", "</interpreter>", "1\n</tool_response>", "```", "x\n</interpreter>\n\n```\n", "\n\n3"],
)
def test_output_ends_where_it_ends_whatever_a_program_prints(dialect, printed):
    feedback = dialect.feedback(printed, remaining_calls=1)
    trace = dialect.write_call(CODE) + feedback + "So two.\n" + dialect.write_answer("2")
    assert [s.text for s in dialect.split(trace)][1] == feedback


@pytest.mark.parametrize("carried", ["\n", "\n\n", "'", "');\n\n", "\r\n", ".", "</", "Description", " "])
def test_what_the_last_token_carries_belongs_to_the_turn(carried):
    feedback = RETOOL.feedback("3", carried=carried)
    trace = RETOOL_TURN + carried + feedback + RETOOL.write_answer("3")
    assert [s.text for s in RETOOL.split(trace)] == [
        RETOOL_TURN + carried,
        feedback,
        RETOOL.write_answer("3"),
    ]


@pytest.mark.parametrize("carried", ["s", "\n", "oHaveBeenCalledWith", "\n\n"])
def test_output_of_a_fence_is_read_back(carried):
    trace = TORL_TURN + carried + TORL.feedback("3", carried=carried) + TORL.write_answer("3")
    segments = TORL.split(trace)
    assert "".join(s.text for s in segments) == trace
    assert segments[1].text.endswith(TORL.feedback("3"))


def test_a_stop_string_in_the_words_is_text():
    trace = "A block ends in </code> here.\n" + RETOOL_TURN + RETOOL.feedback("3") + RETOOL.write_answer("3")
    assert RETOOL.split(trace)[0].code == CODE
    assert [s.text for s in RETOOL.split("I write </code> now.")] == ["I write </code> now."]


def test_after_the_cap_a_block_is_text():
    past = (
        RETOOL_TURN + RETOOL.feedback("3") + RETOOL_TURN + "\nI cannot run that. " + RETOOL.write_answer("3")
    )
    with pytest.raises(TraceFormatError, match="without interpreter output"):
        RETOOL.split(past)
    assert [s.code for s in replace(RETOOL, max_calls=1).split(past)] == [CODE, None, None]
    with pytest.raises(TraceFormatError, match="in the wrong place"):  # invented output is no output
        replace(RETOOL, max_calls=0).split("Look. <interpreter>\n3\n</interpreter>\n")


@pytest.mark.parametrize(
    ("dialect", "turn", "unrecognised", "self_written"),
    [
        (RETOOL, RETOOL_TURN, 0, 0),
        (RETOOL, "<code>\n```python\nprint(1)\n</code>", 1, 0),
        (RETOOL, "```python\nprint(1)\n```\nand so", 1, 0),
        (RETOOL, "I think <interpreter>\n3\n</interpreter>", 0, 1),
        (RETOOL, "<code>\nprint('<interpreter>')\n</code>", 0, 0),
        (RETOOL, RETOOL_TURN + "\n<interpreter>\n3\n</interpreter>\n<code>\nprint(", 1, 1),
        (TORL, TORL_TURN, 0, 0),
        (TORL, "the ```output\n3\n```\n", 0, 1),
        (TORL, "```python\nprint(1)\n```\nso\n```output", 1, 0),
        (TORL, "```python\nprint(1)\n```\n", 1, 0),
        (TEXT, "```python\nprint(1)\n```\n<interpreter>", 0, 0),
    ],
)
def test_counts_of_a_turn(dialect, turn, unrecognised, self_written):
    assert dialect.unrecognised(turn) == unrecognised
    assert dialect.self_written(turn) == self_written


def test_a_truncated_block_is_not_unrecognised():
    cut = "Now.\n<code>\n```python\nprint("
    assert [block.fault for block in RETOOL.blocks(cut)] == [UNFINISHED]
    assert (RETOOL.unrecognised(cut), RETOOL.unrecognised(cut, is_cut=True)) == (1, 0)


@pytest.mark.parametrize("dialect", [RETOOL, TORL, HERMES])
def test_every_mark_is_needed_by_a_trace(dialect):
    trace = f"Count.\n{dialect.write_call(CODE)}{dialect.feedback('3')}So 3.\n{dialect.write_answer('3')}"
    assert dialect.is_followed_by(trace)
    for mark in dialect.marks:
        assert mark in trace
        assert not dialect.is_followed_by(trace.replace(mark, "", 1)), mark
