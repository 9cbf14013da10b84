"""Rows in ReTool-SFT's format: exported rows and published variants are read, and `check` runs the code."""

import json
import subprocess
import sys

import pandas
import pytest

from tasks.shared.traces.dialect import DIALECTS
from tasks.synthesize.retool_rows import canonical, check, export_row, import_row
from tasks.synthesize.selection.config import VerificationConfig

DIALECT = DIALECTS["retool"]
TRACE = (
    "I add.\n<code>\n```python\nprint(2 + 3)\n```\n</code>\n<interpreter>\n5\n</interpreter>\n"
    "So.\n<answer>\n\\boxed{5}\n</answer>"
)
PROBLEM = "What is 2 + 3?"
PUBLISHED = (
    "Solve the problem step by step. <answer> and <code> are tags.\n\n*user question:*\nAnswer the following Math "
    f"Problem and put the answer in the format of \\boxed{{answer}}\n\n{PROBLEM}\n\n\nRemember to place the final "
    "answer in the last part using the format: \n<answer>\n\\boxed{'The final answer goes here.'}\n</answer>"
)


def test_what_is_exported_comes_back():
    row = export_row({"id": "a/0", "problem": PROBLEM, "trace": TRACE})
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    written = import_row(row, 0, "row 1")
    assert (written.trace, written.problem.problem, written.problem.answer) == (TRACE, PROBLEM, "5")


@pytest.mark.parametrize(
    "published",
    [
        TRACE,
        TRACE.replace("</code>\n<interp", "</code>\n\n<interp"),
        TRACE.replace("</code>\n<interp", "</code><interp"),
        TRACE.replace("```python", "```py").replace("<code>\n", "<code> \n"),
        TRACE.replace("```python\n", "").replace("```\n", ""),
        TRACE.replace("<interpreter>\n5\n</interpreter>", "<interpreter>5</interpreter>"),
        TRACE.replace("<answer>\n", "<answer>").replace("\n</answer>", "</answer>\n\n"),
    ],
)
def test_published_blanks_and_fences_are_read_into_the_dialect(published):
    assert canonical(published) == TRACE
    assert DIALECT.closes_with_answer(DIALECT.split(canonical(published))[-1].text)


def test_problem_and_answer_are_read_from_a_published_row():
    messages = [{"role": "user", "content": PUBLISHED}, {"role": "assistant", "content": TRACE}]
    assert import_row({"messages": messages}, 0, "row 1").problem.problem == PROBLEM
    assert import_row({"messages": messages, "answer": 7}, 0, "row 1").problem.answer == "7"


@pytest.mark.parametrize("content", [["a"], {"text": "x"}, "\ud800", True])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_message_of_another_form_is_a_mistake_in_one_line(role, content):
    contents = {"user": "q", "assistant": TRACE} | {role: content}
    messages = [{"role": key, "content": value} for key, value in contents.items()]
    with pytest.raises(ValueError, match=r"^row 3: [^\n]+; [^\n]+$"):
        import_row({"messages": messages}, 2, "row 3")


def test_a_row_without_messages_is_a_mistake_in_one_line():
    for messages in (
        None,
        3,
        "q",
        [{"content": "x"}],
        [{"role": "user"}],
        [{"role": ["user"], "content": "x"}],
    ):
        with pytest.raises(ValueError, match=r"^row 3: no messages of user and assistant"):
            import_row({"messages": messages}, 2, "row 3")
    with pytest.raises(ValueError, match="not written in the dialect 'retool'"):
        export_row({"id": "a/0", "problem": PROBLEM, "trace": "\\boxed{5}"})


def test_check_runs_every_block_again():
    rows = [TRACE, TRACE.replace("\n5\n", "\n6\n", 1), TRACE.replace("2 + 3)", "2 + 3")]
    traces = [
        import_row(
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": row}]}, n, ""
        )
        for n, row in enumerate(rows)
    ]
    assert check(traces, VerificationConfig())["rejected"] == {"output_differs": 2}
    replaced = check(traces, VerificationConfig(recorded_output="replace"))
    assert replaced["rejected"] == {"contradicted": 1} and replaced["outputs_replaced"] == 1


def test_the_command_writes_rows_and_texts(tmp_path):
    frame = pandas.DataFrame([{"id": "a/0", "problem": PROBLEM, "trace": TRACE}])
    frame.to_parquet(tmp_path / "train.parquet")
    rows, texts = tmp_path / "rows.parquet", tmp_path / "texts.jsonl"
    for arguments in (("export", tmp_path, rows), ("import", rows, texts)):
        command = [sys.executable, "-m", "tasks.synthesize.retool_rows", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert json.loads(texts.read_text()) == {"problem": PROBLEM, "reasoning": TRACE, "answer": "5"}
    done = subprocess.run([*command[:3], "check", str(tmp_path / "none")], capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
