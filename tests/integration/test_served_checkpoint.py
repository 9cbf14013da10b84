"""A served checkpoint: evaluation's own samples by 64 clients, a teacher, an end by signal."""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import openai
import pandas
import pytest

from flows.commands.cli import main
from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.recipes import load_recipe
from tasks.serve.config import ServeConfig
from tasks.serve.request import ServeRequest
from tasks.serve.resident import open_resident
from tasks.serve.serve import listening_socket
from tasks.shared.artifacts import Store
from tasks.shared.evaluation.problems import EvaluationProblem, sample_requests
from tasks.shared.evaluation.sampling import Sampler
from tasks.shared.generation.engines import make_generator
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.runs.record import RunRecords, StageRecord
from tests.artifacts import publish
from tests.integration.evaluation_world import SHAPE, evaluate_stage
from tests.integration.stages import in_process
from tests.integration.synthesis_world import make_request
from tests.unit.serve.scripted_world import (
    ANSWER,
    CALL,
    Continuing,
    samples_alive,
    scripted_with,
    served,
    small_stage,
)
from tests.waiting import until

CLIENTS = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    make_tiny_checkpoint(SHAPE, 3, directory)
    return directory


def test_clients_of_the_server_get_evaluations_samples(checkpoint: Path, tmp_path: Path) -> None:
    """Each of 64 concurrent clients gets the reply of its own seed and question.

    Very few samples differ: batches of other shapes move log-probs by 1e-7.
    """
    stage = evaluate_stage()
    shorter = stage.generation.model_copy(update={"max_response_tokens": 48})
    stage = stage.model_copy(update={"generation": shorter})
    problems = [EvaluationProblem("sums", str(i), f"What is {i} plus {i}?", str(2 * i)) for i in range(8)]
    requests = list(sample_requests(problems, 8, seed=7))
    tokenizer = load_tokenizer(checkpoint)
    request = ServeRequest(
        name="m", checkpoint=checkpoint, config=stage, serve=ServeConfig(), scratch=tmp_path
    )
    with open_resident(request) as resident:
        generator = make_generator(stage.generation, stage.model, checkpoint, tokenizer)
        sampler = Sampler(stage, generator, resident.tool, tokenizer)
        own = {(sample.problem_id, sample.sample): sample for sample in sampler.take(requests)}
        with served(resident, max_queue=1000) as address:
            client = openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0)

            def ask(number: int) -> str:
                want = requests[number]
                messages = [{"role": "user", "content": want.problem.problem}]
                if number % 2:
                    reply = client.chat.completions.create(model="m", messages=messages, seed=want.seed)
                    return reply.choices[0].message.content
                chunks = client.chat.completions.create(
                    model="m", messages=messages, seed=want.seed, stream=True
                )
                return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)

            with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
                replies = list(clients.map(ask, range(len(requests))))
    expected = [own[want.problem.id, want.sample].text for want in requests]
    assert len(set(expected)) == len(requests), "samples differ, or the test could not see a mix-up"
    assert sum(reply == text for reply, text in zip(replies, expected, strict=True)) >= len(requests) - 1


def test_a_served_checkpoint_teaches_synthesize(tmp_path: Path) -> None:
    """Live, turn by turn and by prefill: the code runs in the stage's sandbox, every trace is accepted."""
    own = tmp_path / "own.j2"
    own.write_text("{{ problem }}")
    call, answer = CALL.replace("6 * 7", "sum([23] * 17) + 5"), ANSWER.replace("42", "396")
    with scripted_with(Continuing(call, answer), small_stage()) as resident, served(resident) as address:
        request = make_request(
            tmp_path,
            ["any"],
            f"{address}/v1",
            mode="live",
            prompt=str(own),
            teacher={"model": "m", "continuation": "prefill", "max_response_tokens": 150},
        )
        result = in_process(request)
    [trace] = pandas.read_parquet(Store(request.store).fetch(result.outputs["traces"]) / "train.parquet")[
        "trace"
    ]
    assert trace == f"{call}\n<interpreter>\n396\n</interpreter>\n{answer}"
    assert result.metrics["teacher_completion_tokens"] > 0


def test_the_commands_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistakes are reported before anything is loaded."""
    monkeypatch.setenv("TIRFLOW_HOME", str(tmp_path))
    monkeypatch.delenv("TIRFLOW_API_KEY", raising=False)
    monkeypatch.setenv("TIRFLOW_VLLM_PYTHON", str(tmp_path / "nowhere"))
    folder = [str(checkpoint), "--recipe", "tiny"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, said in (
            (["ask", "promoted", "Q?"], "artifact 'promoted': none such"),
            (["ask", "/nowhere/model", "Q?"], "checkpoint '/nowhere/model': there is no such folder"),
            (["ask", str(checkpoint), "Q?"], "name the recipe that says how to ask it"),
            (["ask", *folder, "--engine", "vllm", "Q?"], "make setup-vllm"),
            (["ask", *folder, "--engine", "other", "Q?"], "write transformers or vllm"),
            (["serve", *folder, "--port", port], f"cannot use port {port} on 127.0.0.1"),
            (["serve", *folder, "--host", "0.0.0.0"], "export TIRFLOW_API_KEY"),
        ):
            assert main(arguments) == 2
            caught = capsys.readouterr()
            assert said in caught.err and caught.err.count("\n") == 1, caught.err

    with pytest.raises(ValueError, match=r"cannot use port 0 on nowhere\.invalid \(.*[Nn]ame"):
        listening_socket("nowhere.invalid", 0)


def test_a_server_of_a_runs_stage_ends_after_its_last_reply(checkpoint: Path, tmp_path: Path) -> None:
    """SIGTERM to `tirflow serve demo/sft` during a reply: the reply is complete, the exit code 0."""
    store = Store(str(tmp_path / "store"))
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    ref = publish(store, "checkpoint", files, stage="sft", code="c1")
    records = RunRecords(store.root)
    records.begin("demo", load_recipe("tiny").model_dump(mode="json"))
    record = StageRecord(
        stage="sft", inputs={}, outputs={"checkpoint": ref}, metrics={}, seconds=1.0, finished="2026-01-01"
    )
    records.add("demo", "sft", record)
    environment = os.environ | {"TIRFLOW_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "flows.commands.cli", "serve", "demo/sft", "--port", "0"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = ""
    while "serving demo/sft on " not in line:
        line = process.stdout.readline()
        assert line, "the server ended"
    address = line.split(" on ")[1].split(",")[0].strip()
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0)
    body = {"model": "demo/sft", "messages": [{"role": "user", "content": "What is 2 plus 3?"}], "n": 4}
    replies: list[object] = []
    asking = threading.Thread(target=lambda: replies.append(client.chat.completions.create(**body)))
    asking.start()
    until(lambda: replies or samples_alive(address), "the request did not arrive")
    process.send_signal(signal.SIGTERM)
    asking.join(120)
    assert process.wait(120) == 0 and len(replies) == 1
    assert len(json.loads(replies[0].model_dump_json())["choices"]) == 4  # type: ignore[attr-defined]
    assert not list((tmp_path / "scratch").glob("serve-*"))
