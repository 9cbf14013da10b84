"""A tool beside the interpreter, as docs/extending.md adds one: its calls are read, run, recorded and written alike."""

import ast
import json
import operator
from concurrent.futures import Future
from typing import Any

import pytest

from tasks.shared.generation.interleave import rollout
from tasks.shared.sandbox import ExecutionResult, Limits, Status
from tasks.shared.tools.protocol import Tool, arguments_of
from tasks.shared.traces import tool_form
from tasks.shared.traces.dialect import DIALECTS
from tests.unit.generation.test_interleave import (
    TOKENIZER,
    ScriptedGenerator,
    ScriptedInterpreter,
    policy,
    requests_for,
    three,
)

HERMES = DIALECTS["hermes"]
SCHEMA = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "The value of a sum, product, difference or quotient of integers.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
    },
}
OPERATIONS: dict[type, Any] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


class WithCalculator:
    """Answers calls of the calculator and passes on all others."""

    def __init__(self, other: Tool) -> None:
        self._other = other
        self.open_session, self.close_session = other.open_session, other.close_session

    def submit(
        self, code: str, session: str | None = None, limits: Limits | None = None
    ) -> Future[ExecutionResult]:
        asked = arguments_of(code, "calculator")
        if asked is None:
            return self._other.submit(code, session, limits)
        future: Future[ExecutionResult] = Future()
        try:
            value = _value(ast.parse(json.loads(asked)["expression"], mode="eval").body)
            future.set_result(ExecutionResult(Status.OK, f"{value}\n", "", "", 0.0, 0.0))
        except (SyntaxError, KeyError) as error:
            line = f"no expression of integers: {error}"
            future.set_result(ExecutionResult(Status.ERROR, "", line, line, 0.0, 0.0))
        return future

    def health(self) -> dict[str, Any]:
        return self._other.health()


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp):
        return int(OPERATIONS[type(node.op)](_value(node.left), _value(node.right)))
    raise KeyError(type(node).__name__)


def call(name: str, **arguments: str) -> str:
    return HERMES.form.write_raw(name, json.dumps(arguments))  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def _told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_form, "TOOLS", [*tool_form.TOOLS, SCHEMA])


def test_each_call_reaches_its_tool() -> None:
    interpreter = ScriptedInterpreter(three)
    turns = [
        call("calculator", expression="12 * 12"),
        call("python", code="print(3)"),
        call("calculator", expression="2 ** 3"),
        call("abacus", beads="3"),
    ]
    script = "".join(f"Now.\n{turn}" for turn in turns) + "\\boxed{144}"
    rules = policy("hermes", max_response_tokens=2000)
    generator = ScriptedGenerator(TOKENIZER, {"p/0": script})
    tool: Any = WithCalculator(interpreter)  # type: ignore[arg-type]
    [trajectory] = rollout(requests_for({"p/0": script}), generator, tool, TOKENIZER, rules)
    assert interpreter.programs == ["print(3)"]
    assert [recorded.status for recorded in trajectory.calls] == ["ok", "ok", "error", "notice"]
    shown = [recorded.observation for recorded in trajectory.calls]
    assert shown[:2] == ["144", "3"] and "no expression of integers" in shown[2]
    assert "there is no tool 'abacus', only 'python', 'calculator'" in shown[3]
    again = [tool.submit(recorded.code).result().stdout for recorded in trajectory.calls[:2]]
    assert again == ["144\n", "3\n"]  # a certificate reruns the recorded call


@pytest.mark.parametrize("written", [call("calculator", expression="a + é"), call("python", code="#!x\n")])
def test_a_call_is_written_as_it_was_read(written: str) -> None:
    code = HERMES.find_call(written)
    assert code is not None
    assert HERMES.find_call(HERMES.write_call(code)) == code
    name = json.loads(HERMES.write_call(code).split("\n")[1])["name"]
    assert name == json.loads(written.split("\n")[1])["name"]


def test_arguments_must_be_an_object() -> None:
    block = HERMES.read(HERMES.form.write_raw("calculator", "[1]"))  # type: ignore[union-attr]
    assert block is not None and block.fault == "its arguments are no JSON object"
