"""The model's own words in a response: programs and outputs in every form are removed."""

import time
from dataclasses import replace

import pytest

from tasks.shared.grading import GradeReason, grade
from tasks.shared.traces.call_forms import TagForm
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.own_words import own_words

BOX = "\\boxed{3}"
PRINTS = f"print('{BOX}')"


@pytest.mark.parametrize(
    "turn",
    [
        f"<code>\n```python\n{PRINTS}\n```\n</code>",
        f"<code>\n{PRINTS}\n</code>",
        f"<code>```py\n{PRINTS}```</code>",
        f"<code>\n```python\nprint('</code>'[:0] + '{BOX}')\n```\n</code>",
        f"<code>\nprint('</code>'[:0] + '{BOX}')\n</code>",
        f'<code>\n```python\nprint("""\n```\n{BOX}\n""")\n```\n</code>',
        f"```python\ntext = '''\n```\n{BOX}\n'''\n```\n```output",
        f"<code>\n```python\n{PRINTS}",  # out of tokens
        f"```python\n{PRINTS}\n```\n```output",
        f"```python\n{PRINTS}```\n```output",
        f"```python\nprint('```'[:0] + '{BOX}')\n```\n```output",
        f"   ```Python \r\n   {PRINTS}\r\n   ```\r\n   ```output",
        f"```python\nx = 1\n```output\n{BOX}\n```",
        f"```python\n{PRINTS}",
        f"```\n{PRINTS}\n```",
        f"```sage\n{PRINTS}\n```",
        f"~~~python\n{PRINTS}\n~~~\n```output",
        f"````python\n{PRINTS}\n````\n```output",
        f"````python\ns = 1\n```\n{PRINTS}\n````\n```output",
        f"<interpreter>\n{BOX}\n</interpreter>",  # written by the model itself
        f"```output\n{BOX}\n```",
        f"<interpreter>\n{BOX}",
    ],
)
def test_a_box_inside_a_program_or_an_output_is_no_answer(turn: str) -> None:
    """In every form of a block, run or not."""
    assert "boxed" not in own_words(["First. " + turn])
    assert grade(own_words(["So it is.\n" + turn]), "3").reason is GradeReason.NO_BOX


@pytest.mark.parametrize(
    "turns",
    [
        [f"So {BOX}. <code>\n```python\nprint(1)\n```\n</code>", "It agrees."],
        ["<code>\n```python\nprint(1)\n```\n</code>", f"<answer>\n{BOX}\n</answer>"],
        [f"```python\nx = 1\n```\n{BOX}"],
        [f"```text\n{BOX}\n```"],
        [f"```\n{BOX}\n```"],
        [f"```latex\n{BOX}\n```\nand ```python\n{PRINTS.replace('3', '4')}\n```"],
        [f"<code>```python print(1)```</code>\nSo {BOX}"],
        [f"I write <code> and </code> around programs. {BOX}"],
        [f"No fence is closed here: ``` {BOX}"],
        ["```python\nprint('open to the end of its turn", f"{BOX}"],
        [f'```python\nprint("""no end of the string)\n```\n{BOX}'],
        [f"<code>\nprint('it\\'s')\n</code> It's {BOX}"],
    ],
)
def test_a_box_in_words_is_the_answer(turns: list[str]) -> None:
    """In any turn, with a program before or after it."""
    assert grade(own_words(turns), "3").correct


@pytest.mark.parametrize(
    "mark",
    [
        "<code>",
        "```\n",
        "``` x",
        "<code>\n```x\n</code>\n",
        "<code>'''",
        "```py\n'''\n```\n\"\"\"",
        "<interpreter>",
        "```text\n",
        "<code>```x```</code>",
        "~~~py\n```\n",
        "`````\n~~~\n",
        "````text\n```\n",
    ],
)
def test_unclosed_marks_are_read_in_linear_time(mark: str) -> None:
    """A response of marks alone is read in one pass."""
    started = time.process_time()
    own_words([mark * 20_000])
    assert time.process_time() - started < 5.0


def test_a_box_in_a_tool_call_or_its_result_is_no_answer() -> None:
    called = DIALECTS["hermes"].write_call("print('\\\\boxed{5}')")
    words = own_words([f"Look.\n{called}", "So \\boxed{3}. <tool_response>\n\\boxed{4}\n</tool_response>"])
    assert [part for part in ("5", "3", "4") if f"boxed{{{part}}}" in words] == ["3"]


def test_tags_of_another_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The marks come from the dialects, so a new dialect's are known too."""
    form = TagForm(opening="[run]", stop="[/run]", usage="")
    made_up = replace(DIALECTS["retool"], form=form, feedback_open="\n[out]\n", feedback_close="\n[/out]\n")
    turn = f"{made_up.write_call(PRINTS)} then [run]{PRINTS}[/run]{made_up.feedback(BOX)}So \\boxed{{4}}"
    assert own_words([turn]).count("boxed") == 3  # only the fence is known
    monkeypatch.setitem(DIALECTS, "made_up", made_up)
    assert own_words([turn]).count("boxed") == 1
