"""Stage `rl` with vLLM's CPU build as its sampler, as the launcher runs it: one rank and two, inside and as a pool."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.stage import StageRequest, StageResult
from tests.integration.rl_world import OPTIMIZER, make_request, make_store

EXACT = 1e-4  # float32: sampler and trainer on the same ids
STEPS = 2
GENERATION = {
    "engine": "vllm",
    "max_sequences": 32,
    "max_prompt_tokens": 64,
    "max_response_tokens": 96,
    "gpu_memory_utilization": 0.1,  # of the host's memory in the CPU build
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rl")


@pytest.fixture(scope="module")
def inputs(root: Path) -> dict[str, ArtifactRef]:
    return make_store(root, hidden=128)  # vLLM's CPU attention does not support heads of 16


def run(
    root: Path,
    name: str,
    inputs: dict[str, ArtifactRef],
    ranks: int,
    zero_stage: int,
    pool: dict[str, Any] | None,
) -> dict[str, Path]:
    """A round of `STEPS` steps in a process of its own; the directories of its outputs.

    The sampler sleeps in the trainer's process, or the given pool runs beside it.
    """
    optimizer = OPTIMIZER.model_copy(update={"ranks": ranks, "zero_stage": zero_stage})
    request = make_request(root, inputs, name, steps_per_round=STEPS, probe_bound=EXACT, optimizer=optimizer)
    placement = {"placement": "pool", "pool": pool} if pool else {}
    on_vllm = {
        "generation": GENERATION | placement,
        "rl": request.config["rl"] | {"sleep_sampler": pool is None},
    }
    request = StageRequest.model_validate(request.model_dump() | {"config": request.config | on_vllm})
    directory = root / name
    directory.mkdir()
    (directory / "request.json").write_text(request.model_dump_json())
    stage = subprocess.run(
        [sys.executable, "-m", "tasks.rl.main", str(directory / "request.json")],
        stdout=subprocess.PIPE,
        stderr=(directory / "stderr.txt").open("w"),
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=1700,
    )
    assert stage.returncode == 0, stage.stdout[-2000:] + (directory / "stderr.txt").read_text()[-4000:]
    outputs = StageResult.model_validate_json((directory / "result.json").read_text()).outputs
    store = Store(str(root / "store"))
    return {name: store.fetch(ref) for name, ref in outputs.items()}


def steps(checkpoint: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("ranks", "zero_stage", "pool"),
    [
        pytest.param(1, 0, None, id="one", marks=pytest.mark.long),
        pytest.param(2, 2, None, id="two-zero2", marks=pytest.mark.long),
        pytest.param(2, 3, None, id="two-zero3", marks=pytest.mark.long),  # tiny_vllm has two ranks
        pytest.param(1, 0, {"tensor_parallel": 2}, id="pool-tensor-parallel"),
        pytest.param(2, 3, {"servers": 2}, id="two-zero3-pool-of-two", marks=pytest.mark.long),
    ],
)
def test_a_round_samples_with_the_weights_it_trains(
    root: Path, inputs: dict[str, ArtifactRef], ranks: int, zero_stage: int, pool: dict[str, Any] | None
) -> None:
    """After every sync sampler and trainer agree to 1e-4, and so do the log-probs of every sampled token."""
    outputs = run(root, f"{ranks}-{zero_stage}-{len(pool or ())}", inputs, ranks, zero_stage, pool)
    metrics = steps(outputs["checkpoint"])
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    for line in metrics:
        assert line["probe_gap"] < EXACT
        assert line["gap_max"] < EXACT
        assert line["outages"] == 0
        assert 0 < line["accuracy"] < 1
        assert line["grad_norm"] > 0
    rollouts = pd.read_parquet(outputs["rollouts"] / "train.parquet")
    assert len(rollouts) == STEPS * 4 * 8
    for row in rollouts.itertuples():
        feedback = {i for call in row.calls for i in range(call["turn_end"], call["feedback_end"])}
        assert [i for i, sampled in enumerate(row.sampled) if not sampled] == sorted(feedback)
    ran = [call["status"] for calls in rollouts.calls for call in calls]
    assert ran and set(ran) == {"ok"}
    before = load_file(Store(str(root / "store")).fetch(inputs["checkpoint"]) / "model.safetensors")
    after = load_file(outputs["checkpoint"] / "model.safetensors")
    assert any(not torch.equal(tensor, after[name]) for name, tensor in before.items())
