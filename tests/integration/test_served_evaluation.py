"""An evaluation through `tirflow serve`: the samples, grades and scores of the stage's own."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluate.endpoint import EndpointSampler
from tasks.launch.backends.access import needs_network
from tasks.serve.config import ServeConfig
from tasks.serve.request import ServeRequest
from tasks.serve.resident import open_resident
from tasks.shared.artifacts import Store
from tasks.shared.config import EvaluateStage
from tasks.shared.contract.environment import named_keys
from tasks.shared.contract.stage import StageRequest
from tasks.shared.evaluation.problems import EvaluationProblem, SampleRequest, sample_requests
from tasks.shared.evaluation.sampling import Sampler
from tasks.shared.generation.endpoint.responses import ResponseLog
from tasks.shared.reporting.samples import Sample, read_samples
from tests.integration.evaluation_world import evaluate_request
from tests.integration.stages import in_process
from tests.integration.teacher_server import serve
from tests.unit.generation.scripted import ScriptedGenerator
from tests.unit.serve.scripted_world import ANSWER, CALL, TOKENIZER, BySample, scripted, served, small_stage

SAMPLES = 4
SCRIPTS = [CALL + ANSWER, ANSWER, ANSWER.replace("42", "41"), CALL.replace("6 * 7", "1 / 0") + CALL + ANSWER]
PROBLEMS = [EvaluationProblem("sums", str(i), f"What is {i} plus {42 - i}?", "42") for i in range(3)]


def asks(stage: EvaluateStage, address: str, **endpoint: Any) -> EvaluateStage:
    """The stage with a server as its engine."""
    changed = {"endpoint": {"model": "m", "base_url": f"{address}/v1", "max_wait_s": 0.1} | endpoint}
    evaluate = type(stage.evaluate).model_validate(stage.evaluate.model_dump() | changed)
    return stage.model_copy(update={"evaluate": evaluate})


def evaluated(request: StageRequest) -> tuple[list[Sample], dict[str, Any]]:
    """Samples and summary of the stage, run here."""
    directory = Store(request.store).fetch(in_process(request).outputs["evaluation"])
    return read_samples(directory), json.loads((directory / "summary.json").read_text())


def as_said(sample: Sample) -> Sample:
    """A sample without fields that vary with the batch or the clock."""
    calls = tuple(replace(call, seconds=0.0) for call in sample.calls)
    return replace(sample, logprobs=(), calls=calls, response_ids=tuple(sample.response_ids), sampled=())


def test_a_served_checkpoint_scores_as_the_stage_itself(tmp_path: Path) -> None:
    """Very few samples differ: batches of other shapes move log-probs by 1e-7."""
    request = evaluate_request(tmp_path, samples_per_problem=SAMPLES)
    own, summary = evaluated(request)
    stage = EvaluateStage.model_validate(request.config)
    checkpoint = Store(request.store).fetch(request.inputs["checkpoint"])
    to_serve = ServeRequest(
        name="m", checkpoint=checkpoint, config=stage, serve=ServeConfig(), scratch=tmp_path
    )
    with open_resident(to_serve) as resident, served(resident) as address:
        config = asks(stage, address).model_dump(mode="json")
        remote, remote_summary = evaluated(
            request.model_copy(update={"config": config, "scratch": str(tmp_path / "other")})
        )
    alike = sum(as_said(a) == as_said(b) for a, b in zip(own, remote, strict=True))
    assert alike >= len(own) - 1 and len({sample.text for sample in own}) > len(own) // 2
    scores = [
        {name: (numbers["accuracy"], numbers["interval"]) for name, numbers in one["sets"].items()}
        for one in (summary, remote_summary)
    ]
    assert scores[0] == scores[1]
    assert remote_summary["protocol"].pop("endpoint") == {"model": "m", "base_url": f"{address}/v1"}
    assert remote_summary["protocol"] == summary["protocol"]


def test_programs_run_at_the_server_and_are_graded_here(tmp_path: Path) -> None:
    """Calls, outputs, masks and grades are those of a sampler with the same model in this process."""
    stage = small_stage()
    requests = list(sample_requests(PROBLEMS, len(SCRIPTS), seed=7))
    with scripted(SCRIPTS, stage) as resident:
        generator = ScriptedGenerator(TOKENIZER, BySample(SCRIPTS))
        own = {s.key: s for s in Sampler(stage, generator, resident.tool, TOKENIZER).take(requests)}

    remote: list[Sample] = []
    for number, script in enumerate(SCRIPTS):  # each sample is one request and gets the server's first script
        with scripted([script], stage) as resident, served(resident) as address:
            sampler = EndpointSampler(asks(stage, address), TOKENIZER, ResponseLog(tmp_path / str(number)))
            remote += sampler.take([want for want in requests if want.sample == number])
    assert len(remote) == len(own) and {sample.correct for sample in remote} == {True, False}
    assert sum(bool(sample.calls) for sample in remote) == 2 * len(PROBLEMS)
    for sample in remote:
        mine = own[sample.key]
        assert as_said(sample) == as_said(mine)
        assert tuple(sample.sampled) == tuple(mine.sampled) and tuple(sample.logprobs) == tuple(mine.logprobs)


def test_a_server_of_something_else_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another recipe, other limits, another key, a foreign server, no server."""
    stage = small_stage()
    requests = list(sample_requests(PROBLEMS, 1, seed=7))
    monkeypatch.setenv("SERVED_KEY", "a-key")

    def refusal(config: EvaluateStage, name: str, requests: Sequence[SampleRequest] = requests) -> str:
        with pytest.raises(ValueError) as refused:
            list(EndpointSampler(config, TOKENIZER, ResponseLog(tmp_path / name)).take(requests))
        message = str(refused.value)
        assert "\n" not in message
        return message

    with scripted(SCRIPTS[:1], stage) as resident, served(resident, key="a-key") as address:
        asking = asks(stage, address, key_variable="SERVED_KEY")
        assert "SERVED_KEY" in named_keys(asking)
        changed: dict[str, Any] = {"traces": stage.traces.model_copy(update={"prompt": "plain"})}
        changed["generation"] = stage.generation.model_copy(update={"max_prompt_tokens": 1000})
        assert "another prompt" in refusal(asking.model_copy(update=changed), "prompt")
        traces = stage.traces.model_copy(update={"max_calls": 0})
        assert "gives 1 calls where" in refusal(asking.model_copy(update={"traces": traces}), "calls")
        assert "correct base_url, model or key_variable in evaluate.endpoint" in refusal(
            asks(stage, address), "key"
        )
    assert "see to the server and run again" in refusal(asks(stage, address, max_attempts=2), "gone")
    with serve() as other:
        remote = asks(stage, other.base_url.removesuffix("/v1"), model="teacher-1")
        known = EvaluationProblem("sums", "0", "Case any. What is 12 * 34 + 5?", "413")
        assert "returns no trajectory" in refusal(remote, "other", list(sample_requests([known], 1, seed=7)))
    with pytest.raises(ValueError, match=r"evaluate\.endpoint\.model is empty"):
        asks(stage, address, model="")


def test_a_stage_that_asks_a_server_has_a_network_and_the_key(tmp_path: Path) -> None:
    request = evaluate_request(tmp_path)
    asking = asks(EvaluateStage.model_validate(request.config), "http://host:1").model_dump(mode="json")
    assert needs_network(request.model_copy(update={"config": asking})) and not needs_network(request)
