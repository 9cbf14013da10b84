"""Blocks as models write them: every form of a block runs its program, incomplete ones say what is missing.

`read` sees the text up to a stop string, as in a rollout: a stop string inside the program ends nothing.
"""

import contextlib
import io
import time

import pytest

from tasks.shared.traces.call_forms import Block
from tasks.shared.traces.dialect import DIALECTS, Dialect

RETOOL, TORL = DIALECTS["retool"], DIALECTS["torl"]


def rolled_out(dialect: Dialect, turn: str) -> Block | None:
    """The block that a rollout reads: it asks at every stop string with the text so far."""
    assert dialect.stop is not None
    end = 0
    while (found := turn.find(dialect.stop, end)) >= 0:
        end = found + len(dialect.stop)
        if (block := dialect.read(turn[:end])) is not None:
            assert block == dialect.read(turn), "a reader of the whole text decides alike"
            return block
    return None


def printed(code: str) -> str:
    """The output of a program."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "<block>", "exec"), {})
    return output.getvalue()


RETOOL_FORMS = {
    "as it is shown": "<code>\n```python\nprint(1+2)\n```\n</code>",
    "no fence": "<code>\nprint(1+2)\n</code>",
    "no fence, one line": "<code>print(1+2)</code>",
    "no fence, blanks": "<code> print(1+2) </code>",
    "no fence, indented": "<code>\n    n = 2\n    print(1+n)\n</code>",
    "no fence, blank lines": "<code>\n\nprint(1+2)\n\n</code>",
    "no fence, a language": "<code>python\nprint(1+2)\n</code>",
    "fence says py": "<code>\n```py\nprint(1+2)\n```\n</code>",
    "fence says Python": "<code>\n```Python\nprint(1+2)\n```\n</code>",
    "fence says PYTHON3": "<code>\n```PYTHON3\nprint(1+2)\n```\n</code>",
    "fence says python3.11": "<code>\n```python3.11\nprint(1+2)\n```\n</code>",
    "fence says python:main.py": "<code>\n```python:main.py\nprint(1+2)\n```\n</code>",
    "fence says {.python}": "<code>\n```{.python}\nprint(1+2)\n```\n</code>",
    "fence has attributes": "<code>\n```{.python .numberLines}\nprint(1+2)\n```\n</code>",
    "fence has options": "<code>\n```{python, echo=FALSE}\nprint(1+2)\n```\n</code>",
    "attributes after the fence's word": "<code>\n```python {cmd=true}\nprint(1+2)\n```\n</code>",
    "fence says nothing": "<code>\n```\nprint(1+2)\n```\n</code>",
    "space before the fence's word": "<code>\n``` python\nprint(1+2)\n```\n</code>",
    "space after the fence's word": "<code>\n```python \nprint(1+2)\n```\n</code>",
    "tab after the fence's word": "<code>\n```python\t\nprint(1+2)\n```\n</code>",
    "space after the closing fence": "<code>\n```python\nprint(1+2)\n```  \n</code>",
    "no line break after the tag": "<code>```python\nprint(1+2)\n```</code>",
    "no line break at all": "<code>```python print(1+2)```</code>",
    "no line break, no language": "<code>```print(1+2)```</code>",
    "no line break before the fence": "<code>\n```python\nprint(1+2)```\n</code>",
    "blank line after the tag": "<code>\n\n\n```python\nprint(1+2)\n```\n</code>",
    "blank line before the closing tag": "<code>\n```python\nprint(1+2)\n```\n\n</code>",
    "a line of blanks": "<code>\n   \n```python\nprint(1+2)\n```\n \t\n</code>",
    "indented as a whole": "  <code>\n  ```python\n  for i in [3]:\n      print(i)\n  ```\n  </code>",
    "indented by tabs": "\t<code>\n\t```python\n\tfor i in [3]:\n\t\tprint(i)\n\t```\n\t</code>",
    "indented inside the tags": "<code>\n    ```python\n    n = 2\n\n    print(1+n)\n    ```\n</code>",
    "in a list": "1. Run\n   <code>\n   ```python\n   print(1+2)\n   ```\n   </code>",
    "CRLF": "<code>\r\n```python\r\nn = 2\r\nprint(1+n)\r\n```\r\n</code>",
    "CRLF, no fence": "<code>\r\nn = 2\r\nprint(1+n)\r\n</code>",
    "four marks": "<code>\n````python\nprint(1+2)\n````\n</code>",
    "tildes": "<code>\n~~~python\nprint(1+2)\n~~~\n</code>",
    "stop in a string": "<code>\n```python\nprint('</code>'[:0] + '3')\n```\n</code>",
    "stop in a string, no fence": "<code>\nprint('</code>'[:0] + '3')\n</code>",
    "stop in a string, one line": "<code>print('</code>'[:0] + '3')</code>",
    "stops in strings": "<code>\n```python\na = '</code>'\nb = \"it's </code></code>\"\nprint(3)\n```\n</code>",
    "stop in an f-string": "<code>\n```python\nprint(f'</code>{3}'[7:])\n```\n</code>",
    "stop after an escape": "<code>\n```python\nprint('\\'</code>'[:0] + '3')\n```\n</code>",
    "stop in a long string": '<code>\n```python\ns = """\n```\n</code>\n"""\nprint(3)\n```\n</code>',
    "stop in a comment": "<code>\n```python\nprint(3)  # not yet </code>\n```\n</code>",
    "apostrophe in a comment": "<code>\n```python\n# it's this\nprint(3)\n```\n</code>",
    "opening tag in a string": "<code>\n```python\nprint('<code>'[:0] + '3')\n```\n</code>",
    "opening tag in a comment": "<code>\n```python\n# as <code> says\nprint(3)\n```\n</code>",
    "both tags in a string": "<code>\nprint('<code></code>'[:0] + '3')\n</code>",
    "fence in a string": "<code>\n```python\nprint('```'[:0] + '3')\n```\n</code>",
    "a tag in the words before": "I use <code> blocks, don't I?\n<code>\n```python\nprint(1+2)\n```\n</code>",
    "a stop in the words before": "It ends in </code>.\n<code>\n```python\nprint(1+2)\n```\n</code>",
}
TORL_FORMS = {
    "as it is shown": "```python\nprint(1+2)\n```\n```output",
    "fence says py": "```py\nprint(1+2)\n```\n```output",
    "fence says Python3": "```Python3\nprint(1+2)\n```\n```output",
    "fence says nothing": "Now:\n```\nprint(1+2)\n```\n```output",
    "space after the fence's word": "```python \nprint(1+2)\n``` \n```output",
    "blank lines": "```python\n\nprint(1+2)\n\n```\n\n\n```output",
    "indented as a whole": "   ```python\n   for i in [3]:\n       print(i)\n   ```\n   ```output",
    "in a list": "1. ```python\n   print(1+2)\n   ```\n   ```output",
    "CRLF": "```python\r\nn = 2\r\nprint(1+n)\r\n```\r\n```output",
    "CRLF after the fence": "```python\r\nprint(1+2)\r\n```\n```output",
    "no line break before the fence": "```python\nprint(1+2)```\n```output",
    "a comment before the fence": "```python\nprint(1+2)  # three```\n```output",
    "no line break between the fences": "```python\nprint(1+2)\n``` ```output",
    "the fences as one": "```python\nprint(1+2)\n``````output",
    "four marks": "````python\nprint(1+2)\n````\n```output",
    "tildes": "~~~python\nprint(1+2)\n~~~\n```output",
    "fence in a string": "```python\nprint('```'[:0] + '3')\n```\n```output",
    "fences in a long string": "```python\ns = '''\n```\n'''\nprint(3)\n```\n```output",
    "stop in a string": "```python\nprint('```output'[:0] + '3')\n```\n```output",
    "stop in a long string": '```python\ns = """\n```\n```output\n"""\nprint(3)\n```\n```output',
    "a whole block in a long string": "```python\ns = '''\n```python\n4\n```\n```output\n'''\nprint(3)\n```\n```output",
    "fence in a comment": "```python\n# a ``` here\nprint(3)\n```\n```output",
    "fence in the words": "A ``` opens it:\n```python\nprint(1+2)\n```\n```output",
    "another block before": "```python\nprint(4)\n```\nor rather\n```python\nprint(1+2)\n```\n```output",
    "text in a fence before": "```\nn = 3\n```\nSo:\n```python\nprint(1+2)\n```\n```output",
}
FORMS = [(RETOOL, turn) for turn in RETOOL_FORMS.values()] + [(TORL, turn) for turn in TORL_FORMS.values()]
NAMES = [f"retool: {name}" for name in RETOOL_FORMS] + [f"torl: {name}" for name in TORL_FORMS]


@pytest.mark.parametrize(("dialect", "turn"), FORMS, ids=NAMES)
def test_every_form_runs(dialect, turn):
    for words in ("", "Let me compute.\n"):
        block = rolled_out(dialect, words + turn)
        assert block is not None
        assert not block.fault
        assert block.end == len(words + turn)
        assert printed(block.code).strip() == "3"


@pytest.mark.parametrize(("dialect", "turn"), FORMS, ids=NAMES)
def test_output_follows_every_form(dialect, turn):
    trace = turn + dialect.feedback("3") + "So it is 3.\n" + dialect.write_answer("3")
    segments = dialect.split(trace)
    assert [segment.text for segment in segments[:2]] == [turn, dialect.feedback("3")]
    block = segments[0].block
    assert block is not None
    assert block.code.split() == trace[block.first : block.last].split(), "the program, but for indentation"


@pytest.mark.parametrize(
    ("dialect", "turn", "fault"),
    [
        (RETOOL, "<code>\n```python\nprint(1)\n</code>", "its fence is not closed"),
        (RETOOL, "<code>\nprint(1)\n```\n</code>", "no fence opens"),
        (RETOOL, "<code>\n```cpp\nint a;\n```\n</code>", "says 'cpp'"),
        (RETOOL, "```python\nprint(1)\n```\n</code>", "<code> is missing"),
        (RETOOL, "```python\nprint(1)\n</code>", "<code> is missing"),
        (RETOOL, "<code>\n```python\n```\n</code>", "no program"),
        (RETOOL, "<code></code>", "no program"),
        (RETOOL, "<code>\n```python\na = 1\n```\nthen\n```python\nprint(a)\n```\n</code>", "more than one"),
        (TORL, "```python\nprint(1)\n```output", "not closed"),
        (TORL, "```python\nprint(1)\n```\nThis gives\n```output", "does not follow"),
        (TORL, "```cpp\nint a;\n```\n```output", "says 'cpp'"),
        (TORL, "```python\n```\n```output", "no program"),
    ],
)
def test_a_block_that_is_not_whole_says_what_it_lacks(dialect, turn, fault):
    turn = "Now.\n" + turn
    block = rolled_out(dialect, turn)
    assert block is not None
    assert fault in block.fault
    assert dialect.find_call(turn) is None
    assert fault in dialect.notice(block)
    assert "\n" not in dialect.notice(block)


@pytest.mark.parametrize(
    ("dialect", "turn"),
    [
        (RETOOL, "I write </code> here."),
        (RETOOL, "```python\nprint('</code>"),
        (RETOOL, "```python\nprint(1)\n```\nA block ends in </code>"),
        (TORL, "The result stands in ```output"),
        (TORL, "```text\nsome\n```\nand ```output"),
    ],
)
def test_a_stop_string_that_ends_nothing_is_text(dialect, turn):
    assert rolled_out(dialect, turn) is None


CODES = [
    "print(3)",
    "x = '''\n```\n</code>\n<code>\n```output\n'''\n\n\nprint(3)\n",
    "# it's a ``` here </code>\nprint(\"don't\")",
    "\nprint(3)\n\n",
    "print('\\\\')  # '\nprint(\"\\\"\")",
    "if 1:\n\tprint(r'\\'</code>')",
]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("dialect", [RETOOL, TORL])
def test_written_calls_are_read_back_exactly(dialect, code):
    block = rolled_out(dialect, "Now.\n" + dialect.write_call(code))
    assert block is not None
    assert block.code == code


@pytest.mark.parametrize(
    ("dialect", "loop"), [(RETOOL, "</code>"), (RETOOL, "```\n</code>\n"), (TORL, "```output\n0\n")]
)
def test_a_model_that_repeats_itself_holds_nobody_up(dialect, loop):
    started = time.process_time()
    assert dialect.unrecognised(loop * 4000) == 0
    assert time.process_time() - started < 5.0  # 0.2 s; minutes if every stop string has all fences read
