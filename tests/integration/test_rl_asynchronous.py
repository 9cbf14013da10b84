"""Asynchronous rounds with real parts: kills lose nothing, and the record gives the same weights to the bit."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.stage import StageRequest
from tests.artifacts import publish
from tests.integration.ahead_world import STALENESS, ahead_request, check_account, killed_until_it_ends
from tests.integration.evaluation_world import fill_sets
from tests.integration.rl_world import OPTIMIZER, make_request, make_store
from tests.integration.stages import in_process, outputs_of, read_lines, run_to_end
from tests.integration.test_rl_round import FAST


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ahead")


@pytest.fixture(scope="module")
def inputs(root: Path) -> dict[str, ArtifactRef]:
    return make_store(root)


@pytest.fixture(scope="module")
def with_sets(root: Path, inputs: dict[str, ArtifactRef]) -> dict[str, ArtifactRef]:
    rows = {"held_out": [(f"held_out/{i}", f"What is {i}?", "1") for i in range(6)]}
    sets = publish(Store(str(root / "store")), "evaluation_sets", lambda path: fill_sets(path, rows))
    return inputs | {"evaluation_sets": sets}


def weights(root: Path, outputs: dict[str, ArtifactRef]) -> bytes:
    return (Store(str(root / "store")).fetch(outputs["checkpoint"]) / "model.safetensors").read_bytes()


def again(root: Path, request: StageRequest, outputs: dict[str, ArtifactRef]) -> bytes:
    """The weights of the same round trained from its record, without a sampler."""
    scratch = f"{request.scratch}-again"
    changed = {"inputs": request.inputs | {"record": outputs["rollouts"]}, "scratch": scratch}
    return weights(root, in_process(request.model_copy(update=changed)).outputs)


def test_killed_twice_accounts_for_every_prompt(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    """The weights are those of a round that trains once on each recorded step, although steps were repeated."""
    directory, request = root / "killed", ahead_request(root, inputs, "killed")
    hits = killed_until_it_ends(directory, request, kills=2, seed=5)
    assert hits.total() == 2
    counts = check_account(root, directory, steps=5)
    assert counts["drawn"] == counts["trained"] + counts["dropped"] and counts["trained"] == 10
    outputs = outputs_of(directory)
    assert again(root, request, outputs) == weights(root, outputs)
    rollouts = Store(str(root / "store")).fetch(outputs["rollouts"])
    metrics = read_lines(rollouts / "metrics.jsonl")
    for line in metrics:
        assert sum(line[f"staleness/{age}"] for age in range(STALENESS + 1)) == line["trajectories"]
        assert line["probe_gap"] < 1e-4
    assert metrics[0]["staleness/0"] == 8 and (metrics[0]["gap_mean/staleness_0"] or 0.0) < 1e-4
    timing = read_lines(rollouts / "circumstances/timing.jsonl")
    assert all(0 <= line["sampler_idle"] <= 1 and 0 <= line["trainer_idle"] <= 1 for line in timing)


def test_training_continues_during_an_evaluation(root: Path, with_sets: dict[str, ArtifactRef]) -> None:
    """An evaluation takes longer than the steps that its weights may sample for.

    The round is killed once. The first point is that of a synchronous round: one version sampled all of it.
    """
    settings = {"evaluate_every_steps": 4, "evaluate_samples": 32, "evaluate_top_p": 1.0, "keep": "best"}
    directory = root / "evaluated"
    request = ahead_request(
        root, with_sets, "evaluated", steps_per_round=8, checkpoint_every_steps=1, **settings
    )
    assert killed_until_it_ends(directory, request, kills=1, seed=3).total() == 1
    assert check_account(root, directory, steps=8)["trained"] == 16
    outputs = outputs_of(directory)
    rollouts = Store(str(root / "store")).fetch(outputs["rollouts"])
    metrics = read_lines(rollouts / "metrics.jsonl")
    kept = [line["step"] for line in metrics if line["probe_gap"] is None]
    assert kept == [1, 2, 5, 6]  # trajectories may start two steps before the step that trains on them
    assert all(line["probe_gap"] < 1e-4 for line in metrics if line["step"] not in kept)
    points = {point["step"]: point for point in read_lines(rollouts / "evaluation.jsonl")}
    assert list(points) == [0, 4, 8] and all(point["samples"] == 6 * 32 for point in points.values())
    best = Store(str(root / "store")).manifest(outputs["best"]).metrics
    assert best["accuracy"] == max(points[4]["accuracy"], points[8]["accuracy"])
    in_turn = in_process(make_request(root, with_sets, "in-turn", **FAST | settings | {"steps_per_round": 1}))
    [first, _] = read_lines(
        Store(str(root / "store")).fetch(in_turn.outputs["rollouts"]) / "evaluation.jsonl"
    )
    assert first["accuracy"] == pytest.approx(points[0]["accuracy"], abs=1.5 / (6 * 32))
    assert again(root, request, outputs) == weights(root, outputs)


def test_without_updates_in_flight_a_trajectory_is_of_one_version(
    root: Path, inputs: dict[str, ArtifactRef]
) -> None:
    request = ahead_request(root, inputs, "drained", staleness=1, update_in_flight=False, steps_per_round=3)
    outputs = in_process(request).outputs
    rows = pd.read_parquet(Store(str(root / "store")).fetch(outputs["rollouts"]) / "train.parquet")
    assert rows.versions.map(len).eq(1).all()
    assert (rows.step - 1 - rows.versions.map(lambda versions: versions[0]["step"])).isin([0, 1]).all()


def test_two_ranks_train_on_what_one_samples_ahead(root: Path, with_sets: dict[str, ArtifactRef]) -> None:
    """ZeRO-2. The first rank has the sampler and evaluates. One rank trains the same from the record."""
    optimizer = OPTIMIZER.model_copy(update={"ranks": 2, "zero_stage": 2}).model_dump()
    settings = {"steps_per_round": 3, "evaluate_every_steps": 2, "optimizer": optimizer}
    request = ahead_request(root, with_sets, "two", **settings)
    directory = root / "two"
    run_to_end(directory, request)
    outputs = outputs_of(directory)
    assert check_account(root, directory, steps=3)["trained"] == 6
    points = read_lines(Store(str(root / "store")).fetch(outputs["rollouts"]) / "evaluation.jsonl")
    assert [point["step"] for point in points] == [0, 2, 3]
    config = request.config | {"rl": request.config["rl"] | {"optimizer": OPTIMIZER.model_dump()}}
    alone = load(again(root, request.model_copy(update={"config": config}), outputs))
    found = load(weights(root, outputs))
    for name, tensor in alone.items():
        assert torch.allclose(tensor, found[name], atol=2e-5), name


def test_a_synchronous_step_repeats_from_its_record(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    """With PPO, whose critic learns from the rewards: staleness 0 and a record agree to the bit.

    While it sampled, the optimizer states of both models were offloaded.
    """
    optimizer = OPTIMIZER.model_copy(update={"zero_stage": 3})
    settings = {**FAST, "algorithm": "ppo", "failed_code_penalty": 0.1, "optimizer": optimizer}
    outputs = in_process(make_request(root, inputs, "sync", **settings, offload_while_sampling=True)).outputs
    assert again(root, make_request(root, inputs, "sync", **settings), outputs) == weights(root, outputs)
