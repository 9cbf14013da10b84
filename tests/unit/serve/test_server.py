"""The server against OpenAI's own client: replies whole and streamed, refusals in the API's form, limits, figures."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest

from tasks.shared.generation.interleave import RolloutRequest
from tests.unit.generation.scripted import ScriptedGenerator
from tests.unit.serve.scripted_world import (
    ANSWER,
    CALL,
    SHOWN,
    TOKENIZER,
    BySample,
    Continuing,
    scripted,
    scripted_with,
    served,
    small_stage,
)

ASKED = [{"role": "user", "content": "What is 6 times 7?"}]
WHOLE = CALL + SHOWN + ANSWER
JSON = {"Content-Type": "application/json"}
ENDLESS = CALL.replace("print(6 * 7)", "import time\ntime.sleep(8)")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server whose model runs code in even samples and gives no answer in odd ones."""
    with scripted([CALL + ANSWER, "No idea, really."]) as resident, served(resident, key="s3cret") as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="s3cret", max_retries=0)


def ask(client: openai.OpenAI, **more: object) -> object:
    return client.chat.completions.create(**({"model": "m", "messages": ASKED} | more))  # type: ignore[call-overload]


def test_a_reply_has_the_outputs_in_its_text_and_beside_it(client: openai.OpenAI) -> None:
    reply = ask(client, n=2)
    first, second = reply.choices
    assert first.message.content == WHOLE and second.message.content == "No idea, really."
    [call] = first.message.interpreter
    assert (call["code"].strip(), call["status"], call["output"]) == ("print(6 * 7)", "ok", "42")
    assert first.message.content[call["start"] : call["end"]] == SHOWN
    assert (first.message.answer, second.message.answer) == ("42", None)
    assert (first.finish_reason, second.finish_reason) == ("stop", "stop")
    shown = reply.usage.completion_tokens_details.interpreter_tokens
    assert 0 < shown < reply.usage.completion_tokens
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    beside = ask(client, extra_body={"interpreter": "field"}).choices[0].message
    assert beside.content == CALL + ANSWER and beside.interpreter[0]["start"] == len(CALL)


def test_a_stream_says_what_the_whole_reply_says(client: openai.OpenAI) -> None:
    chunks = list(ask(client, n=2, stream=True, stream_options={"include_usage": True}))
    said, events, finished = ["", ""], [], {}
    for chunk in chunks:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            events += [call["status"] for call in (choice.delta.model_extra or {}).get("interpreter", [])]
            if choice.finish_reason:
                finished[choice.index] = choice.finish_reason
    assert said == [WHOLE, "No idea, really."] and events[-1] == "ok" and set(events) <= {"running", "ok"}
    assert finished == {0: "stop", 1: "stop"} and chunks[-1].usage.completion_tokens > 0


def test_limits_of_a_request(client: openai.OpenAI) -> None:
    cut = ask(client, max_tokens=5).choices[0]
    assert cut.finish_reason == "length" and WHOLE.startswith(cut.message.content)
    stopped = ask(client, stop=["boxed"]).choices[0]
    assert stopped.finish_reason == "stop" and stopped.message.content == WHOLE[: WHOLE.index("boxed")]
    plain = client.completions.create(model="m", prompt=["6 * 7", "7 * 6"], max_tokens=100)
    assert [choice.text for choice in plain.choices] == [WHOLE, "No idea, really."]
    assert [model.id for model in client.models.list()] == [client.models.retrieve("m").id] == ["m"]


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({"model": "other"}, 404, "model", "model 'other' is not served here; this is 'm'"),
        ({"messages": []}, 400, "messages", "at least 1 item"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages", "take turns"),
        (
            {"messages": [{"role": "user", "content": "word " * 300}]},
            400,
            "messages",
            "more than generation.",
        ),
        ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
        ({"logprobs": True}, 400, None, "logprobs = True is not offered"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, None, "tools ="),
        ({"extra_body": {"top_k": 20}}, 400, None, "top_k = 20 is not offered"),
        ({"n": 65}, 400, "n", "at most 64 samples"),
        ({"stop": [""]}, 400, None, "an empty string"),
    ],
)
def test_refusals_are_in_the_apis_form(
    client: openai.OpenAI, body: dict[str, object], status: int, param: str | None, said: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, **body)
    error = caught.value.response.json()["error"]
    assert (caught.value.status_code, error["param"]) == (status, param)
    assert said in error["message"] and "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "asked", "status", "param"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "a\ud800"}]}, 400, "messages"),
        ("completions", {"prompt": ["a", "b\ud800"]}, 400, "prompt"),
        ("completions", {"prompt": "a", "model": "\ud800"}, 404, "model"),
    ],
)
def test_half_of_a_surrogate_pair_is_refused(
    address: str, path: str, asked: dict[str, object], status: int, param: str
) -> None:
    """JSON can write it, and no text can hold it."""
    content = json.dumps({"model": "m"} | asked)
    answer = httpx.post(f"{address}/v1/{path}", content=content, headers=bearer() | JSON)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_the_gate(client: openai.OpenAI, address: str) -> None:
    for headers in ({"Authorization": "Bearer wrong"}, {}):
        answer = httpx.get(f"{address}/v1/models", headers=headers)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
    large = httpx.post(f"{address}/v1/completions", content=b" " * (1 << 20 | 1), headers=bearer())
    assert large.status_code == 413
    parts = (b" " * (1 << 19) for _ in range(3))  # no length is declared
    assert httpx.post(f"{address}/v1/completions", content=parts, headers=bearer()).status_code == 413
    nothing = httpx.get(f"{address}/v1/nothing", headers=bearer())
    assert nothing.status_code == 404 and "GET /v1/nothing" in nothing.json()["error"]["message"]


def test_health_and_figures(client: openai.OpenAI, address: str) -> None:
    ask(client)
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    assert httpx.get(f"{address}/metrics").status_code == 401
    lines = httpx.get(f"{address}/metrics", headers=bearer()).text.splitlines()
    figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(figures['tirflow_requests_total{path="/v1/chat/completions",status="200"}']) >= 1
    assert float(figures['tirflow_calls_total{status="ok"}']) >= 1
    assert float(figures['tirflow_tokens_total{kind="interpreter"}']) > 0
    assert float(figures['tirflow_sandbox_programs_total{status="ok"}']) >= 1
    assert float(figures["tirflow_samples_alive"]) == 0


def bearer() -> dict[str, str]:
    return {"Authorization": "Bearer s3cret"}


def test_a_client_that_runs_the_code_itself() -> None:
    """At the dialect's stop string nothing runs in the server; the message continues where it ended."""
    with scripted_with(Continuing(), small_stage()) as resident, served(resident) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0)
        first = ask(client, stop=["</code>"]).choices[0].message
        assert first.content == CALL.removesuffix("</code>") and first.interpreter == []
        prefix = {"role": "assistant", "content": CALL + SHOWN}
        more = {"continue_final_message": True, "add_generation_prompt": False}
        assert (
            ask(client, messages=[*ASKED, prefix], stop=["</code>"], extra_body=more)
            .choices[0]
            .message.content
            == ANSWER
        )
        program = resident.tool.health()["executions"]
        assert program == 0


def test_a_tiny_temperature_is_greedy() -> None:
    """Clients send it for that; logits over 1e-40 are NaN in float32, and every token would be the last id."""
    asked: list[float] = []

    class Noting(ScriptedGenerator):
        def add(self, request_id: str, ids: Sequence[int], **how: Any) -> None:
            asked.append(how["sampling"].temperature)
            super().add(request_id, ids, **how)

    generator = Noting(TOKENIZER, BySample(["So."]))
    with scripted_with(generator, small_stage()) as resident, served(resident) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0)
        for temperature in (1e-40, 0.5):
            ask(client, temperature=temperature)
    assert asked == [0.0, 0.5]


def test_a_full_queue_and_a_timeout_are_refused() -> None:
    """Eight samples have room. One more is refused at once, and a sleeping program exceeds the limit."""
    with scripted([ENDLESS]) as resident, served(resident, max_queue=0, max_seconds=1.5) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0)
        slow = ask(client, n=8, stream=True)
        assert next(iter(slow)).choices
        with pytest.raises(openai.RateLimitError) as full:
            ask(client)
        assert full.value.response.headers["Retry-After"] == "1" and "at most 8" in str(full.value)
        with pytest.raises(openai.APIError, match=r"no whole answer within 1.5 s"):
            list(slow)
        with pytest.raises(openai.InternalServerError, match=r"no whole answer within 1.5 s"):
            ask(client)


def test_a_request_after_the_engines_end_gets_its_error() -> None:
    """As a growth like any other: it may come between the server's check and the end."""
    with scripted([CALL]) as resident:
        resident.close()
        heard: list[object] = []
        resident.ask(RolloutRequest("late", 0, (1,), 0), heard.append, follows=True)
        assert heard == [resident.failed] and isinstance(resident.failed, ConnectionAbortedError)
