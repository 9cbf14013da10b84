"""Both papers' protocols with a real model: their numbers decide what is drawn, bounded and reported."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.recipes import load_recipe
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.config import EvaluateStage
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.reporting.evaluated import read_evaluated
from tasks.shared.reporting.samples import Sample, read_samples
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.encoding import encode_prompt
from tests.artifacts import publish
from tests.integration.evaluation_world import fill_sets
from tests.integration.rl_world import make_store
from tests.integration.stages import in_process, stage_request

POSITIONS = 16384 + 64


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("protocols")


@pytest.fixture(scope="module")
def inputs(root: Path) -> dict[str, ArtifactRef]:
    """A model taught to run code for half of its answers, with positions for the longest response."""
    store = Store(str(root / "store"))
    taught = store.fetch(make_store(root)["checkpoint"])

    def widen(directory: Path) -> None:
        for path in taught.iterdir():
            (directory / path.name).write_bytes(path.read_bytes())
        config = json.loads((taught / "config.json").read_text()) | {"max_position_embeddings": POSITIONS}
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "manifest.json").unlink()

    sets = {"own": [(f"p{n}", f"What is {n}?", "1") for n in range(2)]}
    return {
        "checkpoint": publish(store, "checkpoint", widen),
        "evaluation_sets": publish(store, "evaluation_sets", lambda path: fill_sets(path, sets)),
    }


def sample(
    root: Path, inputs: dict[str, ArtifactRef], protocol: str
) -> tuple[list[Sample], dict[str, object]]:
    """The samples of the stage under a protocol, and the protocol in its summary."""
    overrides = {
        "evaluate.protocol": protocol,
        "generation.max_sequences": 16,
        "generation.max_prompt_tokens": 64,
        "sandbox.preload": ["math"],
    }
    config = load_recipe("tiny", overrides).for_stage("evaluate")
    assert isinstance(config, EvaluateStage)
    request = stage_request(root, "evaluate", config, inputs, seed=3, scratch=protocol)
    store = Store(request.store)
    ref = in_process(request).outputs["evaluation"]
    return read_samples(store.fetch(ref)), dict(read_evaluated(store, ref).summary["protocol"])


def test_retool(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    """32 samples a problem that differ, 16,384 tokens in all, the recipe's own cap on calls."""
    samples, protocol = sample(root, inputs, "retool")
    assert (protocol["samples_per_problem"], protocol["temperature"], protocol["top_p"]) == (32, 1.0, 0.7)
    assert (protocol["max_response_tokens"], protocol["max_calls"]) == (16384, 3)
    assert [s.sample for s in samples] == [*range(32), *range(32)]
    assert len({s.text for s in samples if s.problem_id == "p0"}) > 1
    assert all(s.num_tokens <= 16384 for s in samples) and any(s.calls for s in samples)
    assert any(s.correct for s in samples)


def test_torl(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    """One sample, one call, and every drawn token is the model's most probable one."""
    samples, protocol = sample(root, inputs, "torl")
    assert (protocol["samples_per_problem"], protocol["temperature"], protocol["max_calls"]) == (1, 0.0, 1)
    assert protocol["max_response_tokens"] == 3072 and len(samples) == 2
    assert all(len(s.calls) <= 1 and s.num_tokens <= 3072 for s in samples)
    checkpoint = Store(str(root / "store")).fetch(inputs["checkpoint"])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), load_tokenizer(checkpoint)
    for s in samples:
        prompt = encode_prompt(tokenizer, DIALECTS["retool"], s.problem, instructed=False)
        with torch.no_grad():
            best = (
                model(torch.tensor([[*prompt, *s.response_ids]])).logits[0].argmax(-1)[len(prompt) - 1 : -1]
            )
        drawn = torch.tensor(s.sampled)
        assert torch.equal(best[drawn], torch.tensor(s.response_ids)[drawn])
