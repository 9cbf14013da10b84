"""Evaluation during a round, the best checkpoint beside the last, and both after a kill."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.stage import StageRequest, StageResult
from tests.artifacts import publish
from tests.integration.evaluation_world import fill_sets
from tests.integration.processes import StageProcess
from tests.integration.rl_world import make_request, make_store
from tests.integration.stages import in_process, read_lines

SETTINGS: dict[str, Any] = {
    "steps_per_round": 4,
    "prompts_per_step": 4,
    "samples_per_prompt": 4,
    "evaluate_every_steps": 2,
    "evaluate_samples": 3,
    "keep": "best",
    "checkpoint_every_steps": 3,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rl-evaluation")


@pytest.fixture(scope="module")
def inputs(root: Path) -> dict[str, ArtifactRef]:
    store = Store(str(root / "store"))
    rows = {name: [(f"{name}/{i}", f"What is {i}?", "1") for i in range(4)] for name in ("held_out", "other")}
    return make_store(root) | {
        "evaluation_sets": publish(store, "evaluation_sets", lambda path: fill_sets(path, rows))
    }


def request_of(root: Path, inputs: dict[str, ArtifactRef], scratch: str, **changes: Any) -> StageRequest:
    return make_request(root, inputs, scratch, **(SETTINGS | changes))


@pytest.fixture(scope="module")
def whole(root: Path, inputs: dict[str, ArtifactRef]) -> StageResult:
    return in_process(request_of(root, inputs, "whole"))


def fetched(root: Path, ref: ArtifactRef) -> Path:
    return Store(str(root / "store")).fetch(ref)


def test_the_curve_has_intervals_and_its_best_point_is_published(root: Path, whole: StageResult) -> None:
    points = read_lines(fetched(root, whole.outputs["rollouts"]) / "evaluation.jsonl")
    assert [point["step"] for point in points] == [0, 2, 4]
    for point in points:
        assert (point["samples"], point["void"]) == (2 * 4 * 3, 0)
        for name in ("held_out", "other"):
            assert point[f"{name}/low"] <= point[f"{name}/accuracy"] <= point[f"{name}/high"]
    best = max(points[1:], key=lambda point: point["accuracy"])
    manifest = Store(str(root / "store")).manifest(whole.outputs["best"])
    assert manifest.kind == "checkpoint"
    assert (manifest.metrics["step"], manifest.metrics["accuracy"]) == (best["step"], best["accuracy"])
    kept, last = (
        (fetched(root, whole.outputs[name]) / "model.safetensors").read_bytes()
        for name in ("best", "checkpoint")
    )
    assert (kept == last) == (best["step"] == 4)


def test_a_killed_round_ends_with_the_same_curve_and_the_same_best(
    root: Path, inputs: dict[str, ArtifactRef], whole: StageResult
) -> None:
    """Killed after the second step without a saved state: the evaluation and its weights are repeated."""
    request = request_of(root, inputs, "killed")
    process = StageProcess(Path(request.scratch), request)
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "log" and event["message"].startswith("evaluation after step 2"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    resumed = in_process(request)
    assert resumed.outputs["best"].digest == whole.outputs["best"].digest
    assert resumed.outputs["checkpoint"].digest == whole.outputs["checkpoint"].digest
    curves = [
        (fetched(root, result.outputs["rollouts"]) / "evaluation.jsonl").read_text()
        for result in (whole, resumed)
    ]
    assert curves[0] == curves[1]


def test_a_better_checkpoint_of_an_earlier_round_stays_the_best(
    root: Path, inputs: dict[str, ArtifactRef]
) -> None:
    store = Store(str(root / "store"))
    metrics = {"step": 2, "accuracy": 1.0}
    earlier = publish(store, "checkpoint", {"weights": "of an earlier round"}, metrics=metrics)
    only = {"steps_per_round": 1, "evaluate_sets": ("other",), "evaluate_samples": 1}
    result = in_process(request_of(root, inputs | {"best": earlier}, "later", **only))
    assert result.outputs["best"] == earlier
    assert result.outputs["checkpoint"].digest != earlier.digest


def test_a_set_that_was_not_prepared_is_named(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    with pytest.raises(ValueError, match="no set 'third' was prepared; there are held_out, other"):
        in_process(request_of(root, inputs, "unknown", evaluate_sets=("third",)))
