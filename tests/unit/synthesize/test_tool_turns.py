"""A teacher that calls the interpreter through its endpoint's `tools`: what is asked, answered and written."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.shared.config import SandboxConfig, TracesConfig
from tasks.shared.generation.endpoint.client import AttemptFailed
from tasks.shared.generation.endpoint.completion import Completion
from tasks.shared.generation.endpoint.responses import ResponseLog
from tasks.shared.traces.tool_form import TOOLS
from tasks.synthesize.config import SynthesizeConfig
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.teachers.endpoint import EndpointTeacher, Turn
from tasks.synthesize.teachers.prompting import TraceRequest
from tasks.synthesize.traces import TrainingProblem, WrittenTrace
from tasks.synthesize.verify import Rules, verify
from tests.unit.synthesize.in_process import InProcessRunner

WANT = TraceRequest(TrainingProblem("p", "What is 1 + 2?", "3", "test", ""), 0)


def called(*codes: str, content: str = "", **more: Any) -> dict[str, Any]:
    """A message that asks for programs."""
    calls = [
        {
            "id": f"call-{code}",
            "type": "function",
            "function": {"name": "python", "arguments": json.dumps({"code": code})},
        }
        for code in codes
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls} | more


def reply(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


class ScriptedClient:
    """Answers with the given messages, one a request."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self._messages = messages
        self.payloads: list[dict[str, Any]] = []

    async def ask(self, problem_id: str, sample: int, turn: int, payload: dict[str, Any]) -> Completion:
        self.payloads.append(json.loads(json.dumps(payload)))
        return turn_of(self._messages.pop(0))


def turn_of(message: dict[str, Any]) -> Completion:
    choice = {"message": message, "finish_reason": "tool_calls" if message.get("tool_calls") else "stop"}
    return Completion.model_validate({"choices": [choice]})


def converse(
    tmp_path: Path, *messages: dict[str, Any], max_calls: int = 4
) -> tuple[str, ScriptedClient, Rules]:
    """The trace of a conversation in which the model says these messages."""
    config = SynthesizeStage(
        traces=TracesConfig(dialect="hermes", max_calls=max_calls),
        sandbox=SandboxConfig(),
        synthesize=SynthesizeConfig(mode="live", teacher={"base_url": "http://h/v1", "model": "m"}),  # type: ignore[arg-type]
    )
    rules = Rules.of(config)
    teacher = EndpointTeacher(config, rules, InProcessRunner(), ResponseLog(tmp_path, []), seed=0)  # type: ignore[arg-type]
    opening, *rest = messages
    client = teacher._client = ScriptedClient(rest)  # type: ignore[assignment]
    turn = Turn(turn_of(opening).choices[0], tokens=1)
    return asyncio.run(teacher._call_tools(WANT, turn, None)), client, rules  # type: ignore[arg-type]


def test_calls_run_and_their_results_go_back_as_tool_turns(tmp_path):
    trace, client, rules = converse(
        tmp_path,
        called("print(1 + 2)", content="Let me add."),
        called("print(3)", reasoning_content="Better check."),
        reply("So \\boxed{3}"),
    )
    assert trace == (
        "Let me add.\n"
        '<tool_call>\n{"name": "python", "arguments": {"code": "print(1 + 2)"}}\n</tool_call>'
        "\n<tool_response>\n3\n</tool_response>\n"
        "<think>\nBetter check.\n</think>\n\n"
        '<tool_call>\n{"name": "python", "arguments": {"code": "print(3)"}}\n</tool_call>'
        "\n<tool_response>\n3\n</tool_response>\n"
        "So \\boxed{3}"
    )
    assert verify(WrittenTrace("p/0", WANT.problem, trace), rules, InProcessRunner()).accepted
    first, second = client.payloads
    assert first["tools"] == TOOLS and first["tool_choice"] == "auto" and "stop" not in first
    user, assistant, result = first["messages"]
    assert user["role"] == "user"
    assert assistant["content"] == "Let me add."
    assert assistant["tool_calls"][0]["id"] == result["tool_call_id"] == "call-print(1 + 2)"
    assert (result["role"], result["content"]) == ("tool", "3")
    assert second["messages"][3]["reasoning_content"] == "Better check."


def test_several_calls_of_one_turn_run_in_order_up_to_the_cap(tmp_path):
    trace, client, _ = converse(
        tmp_path, called("print(1)", "print(2)", "print(3)"), reply("So \\boxed{3}"), max_calls=2
    )
    assert trace.count("<tool_call>") == trace.count("<tool_response>") == 2
    [payload] = client.payloads
    assert payload["tool_choice"] == "none"
    assert [message["role"] for message in payload["messages"]] == ["user", "assistant", "tool", "tool"]
    assert len(payload["messages"][1]["tool_calls"]) == 2, "a call without a result would be refused"


@pytest.mark.parametrize(
    ("name", "arguments", "fault"),
    [
        ("python", '{"code": "print(1)"', "JSON is not valid"),
        ("search", '{"code": "print(1)"}', "no tool 'search'"),
        ("python", "", "no 'code'"),
        ("python", {"query": "x"}, "no 'code'"),
    ],
)
def test_a_malformed_call_is_answered_by_what_it_lacks(tmp_path, name, arguments, fault):
    broken = {"content": "", "tool_calls": [{"id": "c", "function": {"name": name, "arguments": arguments}}]}
    trace, client, rules = converse(tmp_path, broken, called("print(3)"), reply("So \\boxed{3}"))
    [_, assistant, result] = client.payloads[0]["messages"]
    assert fault in result["content"]
    assert assistant["tool_calls"][0]["function"]["name"] == name
    assert verify(WrittenTrace("p/0", WANT.problem, trace), rules, InProcessRunner()).accepted


def test_a_turn_without_words_or_calls_is_no_turn(tmp_path):
    with pytest.raises(AttemptFailed, match="empty"):
        converse(tmp_path, reply(""))
