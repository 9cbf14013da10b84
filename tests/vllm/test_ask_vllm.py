"""`tirflow ask` and `tirflow serve` with vLLM, in this process and over a pool: what the commands start there.

Runs in the environment of `make setup-vllm`, in which the commands continue.
"""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Literal

import pytest

from tasks.serve.config import ServeConfig
from tasks.serve.request import ServeRequest
from tasks.shared.artifacts import Store
from tasks.shared.config import EvaluateConfig, EvaluateStage, GenerationConfig
from tests.integration.rl_world import MODEL, make_request, make_store

SAMPLES = 8
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A model that answers half of the time with a block of code, and its settings."""
    root = tmp_path_factory.mktemp("taught")
    inputs = make_store(root, hidden=128)
    return Store(str(root / "store")).fetch(inputs["checkpoint"]), make_request(root, inputs).config


def command(
    what: str, directory: Path, checkpoint: tuple[Path, dict[str, Any]], placement: Literal["inside", "pool"]
) -> list[str]:
    """The command line that `flows/commands/serving.py` becomes."""
    path, config = checkpoint
    generation = GenerationConfig(
        engine="vllm",
        placement=placement,
        max_sequences=16,
        max_prompt_tokens=64,
        max_response_tokens=96,
        gpu_memory_utilization=0.1,
    )
    stage = EvaluateStage(
        model=MODEL,
        traces=config["traces"],
        sandbox=config["sandbox"],
        generation=generation,
        evaluate=EvaluateConfig(top_p=1.0),
    )
    request = ServeRequest(
        name="taught",
        checkpoint=path,
        config=stage,
        serve=ServeConfig(),
        scratch=directory / "scratch",
        question="What is 3?",
        samples=SAMPLES,
        seed=1,
        port=0,
    )
    written = directory / "request.json"
    written.write_text(request.model_dump_json())
    return [sys.executable, "-m", "tasks.serve.main", what, str(written)]


@pytest.mark.parametrize("placement", ["inside", "pool"])
def test_a_question_gets_its_vote(
    checkpoint: tuple[Path, dict[str, Any]], tmp_path: Path, placement: Literal["inside", "pool"]
) -> None:
    asked = subprocess.run(command("ask", tmp_path, checkpoint, placement), capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr[-3000:]
    lines = asked.stdout.splitlines()
    assert "seed 1" in lines
    assert len([line for line in lines if " calls, " in line]) == SAMPLES
    assert any("1  1 calls, " in line for line in lines), "code ran, and its output was the answer"
    assert any(f" of {SAMPLES}" in line for line in lines)


@pytest.mark.parametrize("placement", ["inside", "pool"])
def test_a_server_answers_and_ends_well(
    checkpoint: tuple[Path, dict[str, Any]], tmp_path: Path, placement: Literal["inside", "pool"]
) -> None:
    log = tmp_path / "server.err"
    with log.open("w") as errors:
        server = subprocess.Popen(
            command("serve", tmp_path, checkpoint, placement),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert server.stdout is not None
    try:
        line = next((line for line in server.stdout if line.startswith("serving taught on ")), "")
        assert line, log.read_text()[-3000:]
        body = {
            "model": "taught",
            "n": SAMPLES,
            "seed": 1,
            "messages": [{"role": "user", "content": "What is 3?"}],
        }
        request = urllib.request.Request(
            f"{line.split(' on ')[1].split(',')[0]}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            messages = [choice["message"] for choice in json.load(reply)["choices"]]
        called = [message for message in messages if message["interpreter"]]
        assert len(messages) == SAMPLES and called
        assert all(message["interpreter"][0]["output"] == "1" for message in called)
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0, log.read_text()[-3000:]
    finally:
        if server.poll() is None:
            server.kill()
