"""Stages that sample with vLLM, in the containers of `tirflow-rl` and `tirflow-inference`: `make test-containers-vllm`.

The recipe is a smaller `tiny_vllm`. The model was taught to run code half of the time, so the
interpreter in its own container beside each stage has work.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.launch.backends.attempt import run_on_backend
from tasks.launch.backends.docker import DockerBackend
from tasks.recipes import load_recipe, stage_of
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.stage import StageRequest
from tests.artifacts import publish
from tests.containers.conftest import World
from tests.integration.evaluation_world import fill_sets
from tests.integration.rl_world import NUM_PROBLEMS, make_store

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

EXACT = 1e-4  # float32: sampler and trainer on the same ids
SAMPLES, STEPS, PROMPTS = 4, 2, 4
SMALL: dict[str, Any] = {
    "traces.max_calls": 2,
    "sandbox.workers": 1,
    "sandbox.preload": ["math"],
    "generation.max_sequences": 32,
    "generation.max_prompt_tokens": 64,
    "generation.max_response_tokens": 96,
    "synthesize.mode": "bootstrap",
    "synthesize.traces_per_problem": SAMPLES,
    "synthesize.teacher": {"backend": "engine", "temperature": 1.0, "max_response_tokens": 96},
    "synthesize.selection.decontaminate_ngram": 0,
    "rl.steps_per_round": STEPS,
    "rl.prompts_per_step": PROMPTS,
    "rl.samples_per_prompt": SAMPLES,
    "evaluate.samples_per_problem": SAMPLES,
}


@pytest.fixture(scope="module")
def inputs(empty_world: World) -> dict[str, ArtifactRef]:
    made = make_store(empty_world.home, hidden=128)  # vLLM's CPU attention does not support heads of 16
    held_out = [(f"held/{n}", f"What is {n}?", "1") for n in range(20, 30)]
    store = Store(str(empty_world.home / "store"))
    made["evaluation_sets"] = publish(
        store, "evaluation_sets", lambda path: fill_sets(path, {"own": held_out})
    )
    return made


def run(world: World, stage: str, role: str, inputs: dict[str, ArtifactRef]) -> dict[str, Path]:
    """The stage in a container of the role's image; the directories of its outputs."""
    request = StageRequest(
        stage=stage,
        run="vllm",
        config=load_recipe("tiny_vllm", SMALL).for_stage(stage).model_dump(mode="json"),
        inputs=inputs,
        seed=11,
        store=str(world.home / "store"),
        scratch=str(world.home / "scratch" / stage),
    )
    DockerBackend().identity(*stage_of(request))  # fails if the image holds other sources
    outputs = run_on_backend(request, DockerBackend(), world.home / f"{stage}.log", lambda _: None).outputs
    store = Store(request.store)
    image = world.engine.images.get(f"tirflow-{role}").id
    assert {store.manifest(ref).provenance.image for ref in outputs.values()} == {image}
    assert world.left(request) == 0
    return {name: store.fetch(ref) for name, ref in outputs.items()}


def test_synthesize_samples_from_a_checkpoint(empty_world: World, inputs: dict[str, ArtifactRef]) -> None:
    traces = run(empty_world, "synthesize", "inference", inputs)["traces"]
    accepted = pd.read_parquet(traces / "train.parquet")
    rejected = pd.read_parquet(traces / "rejected.parquet")
    assert len(accepted) + len(rejected) == NUM_PROBLEMS * SAMPLES
    assert "wrong_answer" in set(rejected["reason"]), "half of the samples guess wrong"
    assert accepted["trace"].str.contains("<interpreter>\n1\n</interpreter>", regex=False).any()


def test_evaluate(empty_world: World, inputs: dict[str, ArtifactRef]) -> None:
    evaluation = run(empty_world, "evaluate", "inference", inputs)["evaluation"]
    samples = pd.read_parquet(evaluation / "samples.parquet")
    assert len(samples) == 10 * SAMPLES
    assert 0 < samples["correct"].mean() < 1


def test_a_round_on_two_ranks(empty_world: World, inputs: dict[str, ArtifactRef]) -> None:
    outputs = run(empty_world, "rl", "rl", inputs)
    metrics = [
        json.loads(line) for line in (outputs["checkpoint"] / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    for line in metrics:
        assert line["probe_gap"] < EXACT
        assert line["gap_max"] < EXACT
        assert line["outages"] == 0
    assert metrics[-1]["grad_norm"] > 0
    rollouts = pd.read_parquet(outputs["rollouts"] / "train.parquet")
    ran = [call["status"] for calls in rollouts["calls"] for call in calls]
    assert ran and set(ran) == {"ok"}
