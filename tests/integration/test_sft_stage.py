"""Stage `sft` as the launcher runs it: process, request, events on stdout, a checkpoint, resumption after a kill."""

import random
import signal
import time
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, Gemma3Config

from tasks.shared.artifacts import Store
from tasks.shared.config import ModelConfig
from tasks.shared.contract.stage import StageRequest
from tasks.shared.learning.checkpoints import load_model, load_tokenizer, save_checkpoint
from tests.artifacts import publish
from tests.integration.processes import StageProcess
from tests.integration.sft_world import make_request, make_traces
from tests.integration.stages import in_process, outputs_of, read_lines, run_to_end
from tests.unit.generation.tiny import tiny_tokenizer


def metrics_of(root: Path) -> list[dict[str, float]]:
    return read_lines(Store(str(root / "store")).fetch(outputs_of(root)["checkpoint"]) / "metrics.jsonl")


def test_a_checkpoint_that_learned_is_published(tmp_path: Path) -> None:
    request = make_request(tmp_path, epochs=6)
    events = run_to_end(tmp_path, request)
    assert [event["event"] for event in events[-2:]] == ["progress", "result"]
    metrics = metrics_of(tmp_path)
    assert metrics[-1]["loss"] < 0.75 * metrics[0]["loss"]
    assert [line["step"] for line in metrics] == list(range(1, len(metrics) + 1))
    directory = Store(request.store).fetch(outputs_of(tmp_path)["checkpoint"])
    load_model(directory, ModelConfig(source="tiny", dtype="float32"))
    load_tokenizer(directory)


def test_killed_at_two_random_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    run_to_end(whole, make_request(whole, epochs=8))
    num_steps = len(metrics_of(whole))
    request = make_request(broken, epochs=8)
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    moments = sorted(rng.sample(range(1, num_steps - 8), 2))  # a busy machine kills some steps later
    for moment in moments:
        kill_after(broken, request, moment, rng.random() * 0.02)
    events = run_to_end(broken, request)
    where = f"seed {seed}: killed after steps {moments} of {num_steps}"
    assert outputs_of(broken)["checkpoint"].digest == outputs_of(whole)["checkpoint"].digest, where
    if moments[-1] >= 3:
        assert any("resuming after step" in event.get("message", "") for event in events), where


def kill_after(root: Path, request: StageRequest, step: int, seconds: float) -> None:
    """SIGKILL `seconds` after the stage logged `step`. It must not have finished."""
    metrics = Path(request.scratch) / "metrics.jsonl"
    process = StageProcess(root, request)
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.is_file() and len(metrics.read_text().splitlines()) >= step and fresh(metrics, root):
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, (root / "stderr.txt").read_text()[-3000:]


def fresh(metrics: Path, root: Path) -> bool:
    """True if the process that was just started has written it."""
    return metrics.stat().st_mtime > (root / "request.json").stat().st_mtime


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """Metrics of the request of `make_request` on one rank."""
    root = tmp_path_factory.mktemp("one_rank")
    run_to_end(root, make_request(root))
    return metrics_of(root)


@pytest.mark.parametrize("zero_stage", [*(pytest.param(n, marks=pytest.mark.long) for n in (0, 2)), 3])
def test_two_ranks_learn_as_one_does(
    tmp_path: Path, one_rank: list[dict[str, float]], zero_stage: int
) -> None:
    events = run_to_end(tmp_path, make_request(tmp_path, zero_stage=zero_stage, ranks=2))
    assert [event["event"] for event in events].count("result") == 1
    for shared, alone in zip(metrics_of(tmp_path), one_rank, strict=True):
        assert shared == pytest.approx(alone, rel=1e-4)


def test_a_mistake_found_in_a_rank_is_one_line(tmp_path: Path) -> None:
    traces = make_traces(8)
    traces.loc[3, "trace"] = "<code>\n```python\nprint(1)\n```\n</code>"
    events = run_to_end(tmp_path, make_request(tmp_path, traces=traces, ranks=2), status=2)
    assert [event["event"] for event in events] == ["error"]
    assert "trace 'trace-3' does not follow" in events[0]["message"]


def test_a_model_with_a_section_for_its_text_is_trained(tmp_path: Path) -> None:
    """Gemma 3 with images: the number of positions is in the text section of its configuration."""
    tokenizer = tiny_tokenizer()
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
    }
    image = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(
        Gemma3Config(text_config=text, vision_config=image | {"image_size": 28, "patch_size": 14})
    )
    request = make_request(tmp_path)
    checkpoint = publish(
        Store(request.store), "checkpoint", lambda path: save_checkpoint(model, tokenizer, path)
    )
    request = request.model_copy(update={"inputs": request.inputs | {"checkpoint": checkpoint}})
    assert in_process(request).metrics["too_long"] == 0
