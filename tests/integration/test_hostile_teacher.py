"""A teacher's endpoint with every kind of fault: no trace is lost, and each fault is counted."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import pandas
import pytest

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.generation.endpoint.responses import ResponseLog
from tasks.shared.reporting.samples import write_samples
from tests.artifacts import publish
from tests.integration.stages import in_process
from tests.integration.synthesis_world import finish, make_request, start
from tests.integration.teacher_server import serve
from tests.unit.reporting.making import make_sample

KEY = "sk-canary-0123456789"
ACCEPTED = (
    "retry_after",
    "retry_date",
    "retry_nonsense",
    "error_500",
    "hang",
    "truncated",
    "parts",
    "no_usage",
    "odd_usage",
    "broke_off",
    "error_body",
    "dropped",
    "invalid_json",
    "forged_output",
    "null_byte",
    "echoes_key",
    "spells_key",
    "stripped",
)
# reason, and how its detail begins
REJECTED = {
    "always_500": ("no_response", 'http_500: {"error": {"message": "internal error"}}'),
    "drip": ("no_response", "timeout: no response within 4 s"),
    "surrogate": ("no_response", "invalid_response"),
    "no_choice": ("no_response", "empty: a response without a choice"),
    "empty": ("no_response", "empty: a message without content"),
    "null": ("no_response", "empty: a message without content"),
    "huge": ("no_response", "too_long: 9999999 characters where"),
    "endless": ("no_response", "too_large: a body of over 67108864 bytes"),
    "withheld": ("no_response", "withheld"),
    "other_model": ("no_response", "other_model: 'cheap-model' answered for 'teacher-1'"),
    "bad_request": ("no_response", "http_400"),
    "endless_error": ("no_response", "http_400: no no "),
    "stray_tags": ("bad_format", ""),
    "attack": ("last_block_failed", ""),  # the sandbox's reply is for its own tests
    "other_script": ("other_script", ""),
}


def test_everything_an_endpoint_can_do_wrong(tmp_path):
    cases = ["honest"] * 10 + [*ACCEPTED, *REJECTED]
    limits = {
        "timeout_s": 4.0,
        "max_attempts": 3,
        "max_wait_s": 0.5,
        "max_failure_share": 0.6,
        "concurrency": 16,
    }
    with serve() as server:
        request = make_request(
            tmp_path,
            cases,
            server.base_url,
            teacher=limits | {"key_variable": "TEACHER_KEY", "max_response_tokens": 4096},
        )
        code, event, written = finish(start(request, os.environ | {"TEACHER_KEY": KEY}))
        assert code == 0, written
        assert all(asked.authorization == f"Bearer {KEY}" for asked in server.asked)
        slowed = [asked.time for asked in server.of("retry_after")]
        assert slowed[1] - slowed[0] >= 0.3, "Retry-After is honoured"
        repeats = Counter(asked.identity for asked in server.asked if asked.case in ("bad_request", "empty"))
        assert set(repeats.values()) == {1}, "a request that cannot succeed is not repeated"
        assert max(Counter(asked.idempotency_key for asked in server.asked).values()) == 1

    store = Store(request.store)
    traces = store.fetch(ArtifactRef(**event["outputs"]["traces"]))
    accepted = pandas.read_parquet(traces / "train.parquet").set_index("problem_id")
    rejected = pandas.read_parquet(traces / "rejected.parquet").set_index("problem_id")
    case_of = {f"sums/{i}": case for i, case in enumerate(cases)}
    assert Counter(case_of[i] for i in accepted.index) == Counter(["honest"] * 10 + list(ACCEPTED))
    assert Counter(case_of[i] for i in rejected.index) == Counter(list(REJECTED)), "nothing is lost"
    for problem_id, row in rejected.iterrows():
        reason, detail = REJECTED[case_of[problem_id]]
        assert (row["reason"], row["detail"][: len(detail)]) == (reason, detail), case_of[problem_id]
    forged = accepted.loc[f"sums/{cases.index('forged_output')}"]
    assert "4711" not in forged["trace"], "an invented output is never accepted"
    assert not Path("/etc/tirflow-was-here").exists()

    failed = {name.partition("/")[2]: value for name, value in event["metrics"].items() if "failed/" in name}
    assert failed.pop("timeout") >= 5  # a busy machine may add more of both
    assert failed.pop("connection") >= 4
    assert failed == {
        "error": 4,
        "http_400": 2,
        "http_429": 4,
        "http_500": 5,
        "http_503": 2,
        "invalid_response": 5,
        "too_large": 1,
    }
    responses = store.fetch(ArtifactRef(**event["outputs"]["responses"]))
    usage = pandas.read_parquet(responses / "usage.parquet")
    assert usage["completion_tokens"].sum() == event["metrics"]["teacher_completion_tokens"] > 0
    assert set(usage["problem_id"]) == {
        i
        for i, case in case_of.items()
        if case not in ("always_500", "drip", "surrogate", "endless", "bad_request", "endless_error")
    }
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in _content(path), f"the key is in {path}"
    assert KEY not in written


def _content(path: Path) -> bytes:
    if path.name.endswith(".jsonl.gz"):
        import gzip

        return gzip.decompress(path.read_bytes())
    return path.read_bytes()


@pytest.mark.parametrize(
    ("case", "teacher", "said"),
    [
        (
            "always_500",
            {},
            'lately: http_500: {"error": {"message": "internal error"}}; see to it and run again (answers are kept)',
        ),
        (
            "wrong_key",
            {},
            'answers 401 for model \'teacher-1\': {"error": {"message": "no such key"}}; correct',
        ),
        ("moved", {}, "answers 307 and points to http://127.0.0.1:9/v1/chat/completions; set base_url"),
        ("wrong_model", {"model": "teacher-9"}, "answers 404 for model 'teacher-9'"),
        ("honest", {"base_url": "http://127.0.0.1:9/v1"}, "lately: connection: "),
    ],
)
def test_an_endpoint_that_refuses_everything_stops_the_stage(tmp_path, case, teacher, said):
    with serve() as server:
        settings = {"max_attempts": 2, "max_wait_s": 0.05, "concurrency": 4} | teacher
        request = make_request(tmp_path, [case] * 30, server.base_url, teacher=settings)
        with pytest.raises(ValueError, match=re.escape(said)):
            in_process(request)
        assert len(server.asked) < 20, "it sends no further requests"


def test_a_missing_key_is_an_error_at_once(tmp_path):
    request = make_request(
        tmp_path, ["honest"], "http://127.0.0.1:9/v1", teacher={"key_variable": "NO_SUCH_KEY"}
    )
    with pytest.raises(
        ValueError, match=r"NO_SUCH_KEY is not set, and synthesize\.teacher\.key_variable names it"
    ):
        in_process(request)


@pytest.mark.parametrize(
    ("judge", "rated", "message"),
    [
        (
            {"key_variable": "NO_SUCH_KEY"},
            None,
            r"NO_SUCH_KEY is not set, and synthesize\.judge\.key_variable",
        ),
        (None, "What is another?", "input pass_rates: it has no sample of any problem to write for"),
    ],
)
def test_a_mistake_in_what_selects_is_found_before_the_teacher_is_asked(tmp_path, judge, rated, message):
    with serve() as server:
        settings, inputs = {}, {}
        if judge is not None:
            settings = {"judge": judge | {"base_url": server.base_url, "model": "teacher-1"}}
        else:
            samples = [make_sample([], "5", "5", problem=rated)]
            store = Store(str(tmp_path / "store"))
            inputs = {"pass_rates": publish(store, "evaluation", lambda path: write_samples(path, samples))}
        request = make_request(tmp_path, ["honest"], server.base_url, inputs=inputs, **settings)
        with pytest.raises(ValueError, match=message):
            in_process(request)
        assert server.asked == []


@pytest.mark.parametrize("price", [0.0, 2.0])
def test_the_budget_is_kept_and_ends_the_stage_cleanly(tmp_path, price):
    budget = {"budget_money": 0.003, "completion_price": price} if price else {"budget_tokens": 30_000}
    with serve() as server:
        settings = budget | {"max_response_tokens": 400, "concurrency": 8}
        request = make_request(tmp_path, ["honest"] * 60, server.base_url, teacher=settings)
        metrics = in_process(request).metrics
    spent = metrics["teacher_prompt_tokens"] + metrics["teacher_completion_tokens"]
    assert spent <= 30_000 or price
    assert metrics["teacher_money"] <= 0.003
    assert metrics["teacher_unasked"] == 60 - metrics["written"] > 0
    assert metrics["accepted"] == metrics["written"] > 5


def test_samples_share_a_request_and_responses_are_reused(tmp_path):
    cases = ["honest", "three"]
    with serve() as server:
        settings = {"samples_per_request": 3, "continuation": "prefill", "concurrency": 2}
        several = {"traces_per_problem": 4, "teacher": settings}
        first = in_process(make_request(tmp_path, cases, server.base_url, **several))
        opened = [asked for asked in server.asked if asked.output is None]
        assert [asked.body.get("n", 1) for asked in opened if asked.case == "three"] == [3, 1]
        assert sorted(asked.body.get("n", 1) for asked in opened if asked.case == "honest") == [1, 1, 2, 3], (
            "an endpoint without n gives one sample a request"
        )
        assert all(asked.body["continue_final_message"] for asked in server.asked if asked.output is not None)
        assert len({asked.body["seed"] for asked in server.asked}) == len(server.asked)
        num_asked = len(server.asked)

        stricter = {
            "verification": {"float_tolerance": 0.0},
            "inputs": {"responses": first.outputs["responses"]},
        }
        request = make_request(tmp_path, cases, server.base_url, scratch="2", **several, **stricter)
        second = in_process(request)
        assert len(server.asked) == num_asked
        assert second.outputs["responses"].digest == first.outputs["responses"].digest
        folder = str(Store(request.store).fetch(first.outputs["responses"]))
        request = make_request(tmp_path, cases, server.base_url, scratch="3", responses=folder, **several)
        third = in_process(request)
        assert len(server.asked) == num_asked
    assert third.outputs["traces"].digest == first.outputs["traces"].digest


def test_a_text_is_rewritten_and_evaluation_problems_are_not_paid_for(tmp_path):
    source = tmp_path / "texts.jsonl"
    rows = [
        {
            "problem": f"Case rewritten. What is {a} * 12 + 9?",
            "reasoning": "By hand.",
            "answer": str(a * 12 + 9),
        }
        for a in (3, 4)
    ]
    rows.append({"problem": "Name the seventh prime number.", "reasoning": "It is 17.", "answer": "17"})
    source.write_text("\n".join(json.dumps(row) for row in rows))
    rewriting = {"mode": "rewrite", "source": {"source": "file", "path": str(source)}}
    with serve() as server:
        replaced = {"verification": {"recorded_output": "replace"}}
        result = in_process(make_request(tmp_path, ["honest"], server.base_url, **rewriting, **replaced))
        assert len(server.asked) == 2
        assert "<solution>\nBy hand.\n</solution>" in server.asked[0].body["messages"][0]["content"]
        assert "stop" not in server.asked[0].body
    traces = Store(str(tmp_path / "store")).fetch(result.outputs["traces"])
    accepted = pandas.read_parquet(traces / "train.parquet")
    assert list(accepted["problem_id"]) == ["texts/0", "texts/1"]
    assert len(set(accepted["prompt_digest"])) == 1
    assert set(accepted["teacher"]) == {"teacher-1"}


def test_a_judge_votes_on_what_the_other_filters_keep(tmp_path):
    with serve() as server:
        judge = {"base_url": server.base_url, "model": "teacher-1", "votes": 3}
        request = make_request(tmp_path, ["honest", "honest", "stateful"], server.base_url, judge=judge)
        request.config["sandbox"]["stateful"] = True
        result = in_process(request)
        judged = [asked for asked in server.asked if "You judge" in asked.body["messages"][0]["content"]]
    assert len(judged) == 9
    store = Store(request.store)
    traces = store.fetch(result.outputs["traces"])
    assert len(pandas.read_parquet(traces / "train.parquet")) == 2
    assert list(pandas.read_parquet(traces / "rejected.parquet")["reason"]) == ["voted_out"]
    usage = pandas.read_parquet(store.fetch(result.outputs["responses"]) / "usage.parquet")
    assert usage.groupby("asker")["responses"].sum().to_dict() == {"judge": 9, "teacher": 7}


def test_requests_are_paced_and_a_conversation_keeps_its_session(tmp_path):
    with serve() as server:
        settings = {"requests_per_minute": 600, "concurrency": 40}
        request = make_request(
            tmp_path,
            ["stateful"] * 14,
            server.base_url,
            most_problems=12,
            teacher=settings,
            sandbox={"stateful": True},
        )
        result = in_process(request)
    assert result.metrics["accepted"] == 12
    times = sorted(asked.time for asked in server.asked)
    assert len(times) == 36
    assert times[-1] - times[0] >= 2.0, "ten a second, of which ten may come at once"


def test_an_alias_answers_and_a_refused_field_is_left_out(tmp_path):
    teacher = {"model": "latest", "aliases": ["Teacher-1"], "send_stop": False}
    with serve() as server:
        request = make_request(tmp_path, ["honest", "forged_output"], server.base_url, teacher=teacher)
        assert in_process(request).metrics["accepted"] == 2
        assert len(server.asked) == 4
        assert not any("stop" in asked.body for asked in server.asked)


def test_responses_of_another_endpoint_or_seed_are_refused(tmp_path):
    """With a used scratch directory: neither the address nor, here, the seed is part of the request."""
    teacher = {"send_seed": False}
    with serve() as server:
        in_process(make_request(tmp_path, ["honest"], server.base_url, teacher=teacher))
        request = make_request(tmp_path, ["honest"], server.base_url, teacher=teacher)
        again = request.model_copy(update={"seed": 4})
        with pytest.raises(ValueError, match=r"responses of another request \(seed: 3 -> 4\); use another"):
            in_process(again)
        elsewhere = make_request(tmp_path, ["honest"], "http://127.0.0.1:9/v1", teacher=teacher)
        with pytest.raises(ValueError, match=r"responses of another request \(synthesize.teacher.base_url"):
            in_process(elsewhere)
        folder = str(tmp_path / "scratch" / "responses")
        taken = make_request(
            tmp_path, ["honest"], server.base_url, scratch="2", responses=folder, teacher=teacher
        )
        assert in_process(taken.model_copy(update={"seed": 4})).metrics["accepted"] == 1
        assert len(server.asked) == 2


def test_the_log_survives_a_torn_end(tmp_path):
    with serve() as server:
        request = make_request(tmp_path, ["honest"] * 3, server.base_url)
        in_process(request)
        shard = tmp_path / "scratch" / "responses" / "shard-000000.jsonl.gz"
        shard.write_bytes(shard.read_bytes()[:-7])
        assert len(ResponseLog(shard.parent)) == 5
        in_process(request)
        assert len(server.asked) == 7, "the torn response is requested again"
        shard.write_bytes(b"\x00" * 50)
        with pytest.raises(ValueError, match=r"shard-000000\.jsonl\.gz: damaged"):
            in_process(request)
