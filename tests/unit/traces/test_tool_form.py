"""Calls of a tool as models write them: forms of JSON, and incomplete calls."""

import json

import pytest

from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.tool_form import UNFINISHED

HERMES = DIALECTS["hermes"]


def call(body: str) -> str:
    return f"Let me see.\n<tool_call>\n{body}\n</tool_call>"


WHOLE = '{"name": "python", "arguments": {"code": "print(1 + 2)"}}'


@pytest.mark.parametrize(
    "turn",
    [
        call(WHOLE),
        call(WHOLE).replace("\n{", "{").replace("}\n", "}"),
        call(json.dumps(json.loads(WHOLE), indent=2)),
        call('{"arguments": {"code": "print(1 + 2)"}, "name": "python"}'),
        call('{"name": "python", "parameters": {"code": "print(1 + 2)"}}'),
        call('{"name": "python", "arguments": "{\\"code\\": \\"print(1 + 2)\\"}"}'),
        call(WHOLE).replace("\n", "\r\n"),
        "I could use <tool_call> here.\n" + call(WHOLE),
        "It ends in </tool_call>.\n" + call(WHOLE),
    ],
)
def test_every_form_runs(turn):
    assert HERMES.find_call(turn) == "print(1 + 2)"


@pytest.mark.parametrize(
    "code",
    [
        "print(1)",
        "x = '</tool_call>'\nprint(\"<tool_call>\", '\\n')",
        "print('caf\u00e9 \U0001f600')\t# \\",
        "\n\nprint(3)\n",
    ],
)
def test_written_calls_are_read_back_exactly(code):
    turn = "Now.\n" + HERMES.write_call(code)
    end = 0
    while (found := turn.find(HERMES.stop, end)) >= 0:  # as a rollout, at every stop string
        end = found + len(HERMES.stop)
        block = HERMES.read(turn[:end])
        if block is not None:
            break
    assert block is not None
    assert (block.code, block.end) == (code, len(turn))
    assert json.loads(f'"{turn[block.first : block.last]}"') == code


def test_line_breaks_in_a_string_are_meant():
    assert HERMES.find_call(call(WHOLE.replace("1 + 2", "1 +\n2"))) == "print(1 +\n2)"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (WHOLE[:-1], "JSON is not valid"),
        (WHOLE.replace('2)"', "2)"), "JSON is not valid"),
        ("print(1 + 2)", "JSON is not valid"),
        ("", "JSON is not valid"),
        ("[1]", "no JSON object"),
        ("[" * 100_000, "JSON is not valid"),
        (WHOLE.replace('"python"', '"search\\nthe web"'), "no tool 'search the web'"),
        (WHOLE.replace('"code"', '"query"'), "no 'code'"),
        (WHOLE.replace('"print(1 + 2)"', "3"), "no 'code'"),
        (WHOLE.replace('"print(1 + 2)"', '" "'), "no 'code'"),
        ('{"name": "python", "arguments": "print(1)"}', "not valid JSON"),
        ('{"name": "python"}', "no 'code'"),
    ],
)
def test_a_malformed_call_says_what_it_lacks(body, fault):
    block = HERMES.read(call(body))
    assert block is not None
    assert fault in block.fault
    assert "\n" not in HERMES.notice(block)


def test_counts_of_a_turn():
    assert HERMES.unrecognised(call("{}")) == 1
    assert HERMES.unrecognised("```python\nprint(1)\n```\n") == 1
    assert HERMES.self_written(call(WHOLE) + "\n<tool_response>\n3\n</tool_response>") == 1
    assert [block.fault for block in HERMES.blocks("Now.\n<tool_call>\n{")] == [UNFINISHED]
    assert HERMES.unrecognised("Now.\n<tool_call>\n{", is_cut=True) == 0
