r"""Exports, imports and checks rows in the form of JoeYing/ReTool-SFT (messages with <code> and <interpreter>).

    python -m tasks.synthesize.retool_rows export TRACES_DIR rows.parquet   # a `traces` artifact, for others
    python -m tasks.synthesize.retool_rows import rows.parquet texts.jsonl  # a text source for mode `rewrite`
    python -m tasks.synthesize.retool_rows check rows.parquet               # run every block again, count what holds

Published rows vary in the blanks between tags; they are read into the dialect's own form. They have no reference
answer: without a column `answer` the trace's own answer replaces it, and `check` cannot find it wrong.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.shared.config import SandboxConfig, TracesConfig
from tasks.shared.grading import last_box
from tasks.shared.rows.raw import file_rows
from tasks.shared.rows.tables import read_table, write_table
from tasks.shared.rows.values import answer_at, text_at
from tasks.shared.tools.interpreter import open_tool
from tasks.shared.traces.dialect import DIALECTS
from tasks.synthesize.config import SynthesizeConfig
from tasks.synthesize.funnel import funnel_of
from tasks.synthesize.selection.config import VerificationConfig
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.traces import TrainingProblem, WrittenTrace
from tasks.synthesize.verify import Rules, settle, verify

DIALECT = DIALECTS["retool"]
MARKER = "*user question:*"  # precedes the problem in the user message
# the text of published prompts around the problem
LEAD = re.compile(r"^Answer the following [^\n]*\n+", re.IGNORECASE)
REMINDER = re.compile(r"\n+Remember to (?:place|put) the final answer.*$", re.IGNORECASE | re.DOTALL)
BLOCK = re.compile(
    r"<code>(?:\s*```(?:python|py)?[ \t]*\n|[ \t]*\n)(.*?)\n?[ \t]*(?:```)?\s*</code>"
    r"\s*<interpreter>[ \t]*\n?(.*?)\n?[ \t]*</interpreter>[ \t]*\n?",
    re.DOTALL,
)
ANSWER = re.compile(r"<answer>\s*(\\boxed\{.*\})[\s.]*</answer>\s*$", re.DOTALL)
# as in the published recipe: independent scripts, whole error messages, and a cap that no row reaches
SETTINGS = SynthesizeStage(
    traces=TracesConfig(dialect="retool", max_calls=64, error_feedback="full"),
    sandbox=SandboxConfig(),
    synthesize=SynthesizeConfig(),
)


def export_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `train.parquet` in the published form. ValueError if its trace is of another dialect."""
    if "<answer>" not in row.get("trace", ""):
        raise ValueError(f"trace {row['id']}: not written in the dialect 'retool'; only that can be exported")
    instruction = DIALECT.prompt("", instructed=True).strip()
    contents = (("user", f"{instruction}\n\n{MARKER}\n{row['problem']}"), ("assistant", row["trace"]))
    return {"messages": [{"role": role, "content": content} for role, content in contents]}


def import_row(row: Mapping[str, Any], number: int, place: str) -> WrittenTrace:
    """A published row as a trace to be verified. ValueError, one line, if it lacks one of the two messages."""
    messages = row.get("messages")
    chat = (
        [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    )
    contents = {str(message.get("role")): message.get("content") for message in chat}
    if not contents.get("user") or not contents.get("assistant"):
        raise ValueError(f"{place}: no messages of user and assistant; give rows as ReTool-SFT has them")
    prompt, response = (text_at(contents, role, place, "that message") for role in ("user", "assistant"))
    trace = canonical(response)
    given = row.get("answer") is not None
    answer = answer_at(row, "answer", place, "that column") if given else last_box(trace)
    if not answer:
        raise ValueError(f"{place}: no boxed answer and no column 'answer'; add one or take the row out")
    name = f"retool_rows/{number}"
    problem = TrainingProblem(name, problem_of(prompt), answer, "retool_rows", "")
    return WrittenTrace(f"{name}/0", problem, trace, teacher="published")


def problem_of(prompt: str) -> str:
    """The problem in a user message, without the instructions around it."""
    problem = prompt.partition(MARKER)[2] or prompt
    return REMINDER.sub("", LEAD.sub("", problem.strip())).strip()


def canonical(text: str) -> str:
    """A published response with the dialect's own blanks and fences around code, output and answer."""

    def block(match: re.Match[str]) -> str:
        return DIALECT.write_call(match.group(1)) + DIALECT.feedback(match.group(2))

    return ANSWER.sub(lambda match: f"<answer>\n{match.group(1)}\n</answer>", BLOCK.sub(block, text)).strip()


def check(traces: list[WrittenTrace], verification: VerificationConfig) -> dict[str, Any]:
    """The funnel of verification over published traces."""
    synthesize = SETTINGS.synthesize.model_copy(update={"verification": verification})
    rules = Rules.of(SETTINGS.model_copy(update={"synthesize": synthesize}))
    with open_tool(SETTINGS.sandbox) as interpreter:
        with ThreadPoolExecutor(2 * SETTINGS.sandbox.workers) as threads:
            verdicts = list(threads.map(lambda written: verify(written, rules, interpreter), traces))
        return funnel_of(settle(list(zip(traces, verdicts, strict=True)), rules, interpreter))


def _read(path: Path) -> Iterator[WrittenTrace]:
    for number, (place, row) in enumerate(file_rows("retool rows", path)):
        yield import_row(row, number, place)


def _export(traces_dir: Path, path: Path) -> int:
    import pyarrow

    text = pyarrow.string()
    message = pyarrow.struct([("role", text), ("content", text)])
    rows = [export_row(row) for row in read_table(traces_dir / "train.parquet")]
    write_table(path, rows, pyarrow.schema([("messages", pyarrow.list_(message))]))
    return len(rows)


def _import(rows_path: Path, path: Path) -> int:
    traces = list(_read(rows_path))
    with path.open("w", encoding="utf-8") as file:
        for written in traces:
            problem, answer = written.problem.problem, written.problem.answer
            file.write(json.dumps({"problem": problem, "reasoning": written.trace, "answer": answer}) + "\n")
    return len(traces)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    parsers = {verb: verbs.add_parser(verb) for verb in ("export", "import", "check")}
    for verb, verb_parser in parsers.items():
        verb_parser.add_argument("source", type=Path)
        if verb != "check":
            verb_parser.add_argument("path", type=Path)
    parsers["check"].add_argument("--replace", action="store_true", help="put true outputs in place")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "check":
            mode = VerificationConfig(recorded_output="replace" if arguments.replace else "compare")
            print(json.dumps(check(list(_read(arguments.source)), mode), indent=1))
        else:
            convert = _export if arguments.verb == "export" else _import
            print(f"{convert(arguments.source, arguments.path)} rows written to {arguments.path}")
    except ValueError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
