"""Drills on numbers: an error in training is detected within a step, which stops the round or is skipped by recipe.

Rounds are real and run in this process. Only the fault is injected, where it would arise.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tasks.rl.update
from tasks.rl.round import RlRound
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.stage import StageRequest, StageResult, TrainingStopped
from tasks.shared.generation.transformers_engine import TransformersGenerator
from tests.drills import worlds
from tests.integration import sft_world
from tests.integration.rl_world import OPTIMIZER, make_request, make_store
from tests.integration.stages import in_process, read_lines

STEPS = {"steps_per_round": 4, "prompts_per_step": 2, "samples_per_prompt": 4}
HARMED = 3  # the step with the fault


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("numbers")


@pytest.fixture(scope="module")
def inputs(root: Path) -> dict[str, ArtifactRef]:
    return make_store(root)


def metrics_of(request: StageRequest, result: StageResult) -> list[dict[str, Any]]:
    return read_lines(Store(request.store).fetch(result.outputs["checkpoint"]) / "metrics.jsonl")


def last_saved_step(request: StageRequest) -> int:
    """The step of the complete state in scratch."""
    [path] = (Path(request.scratch) / "trainer").iterdir()
    assert list(path.glob("step-*")), "incomplete state"
    return int(path.name)


def optimizer(**changes: Any) -> Any:
    return OPTIMIZER.model_copy(update=changes)


def harm_loss(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Multiply the loss of step HARMED by `factor`, as an overflow in a kernel would."""
    real, calls = tasks.rl.update.policy_loss, []

    def harmed(*arguments: Any) -> Any:
        loss, sums = real(*arguments)
        calls.append(loss)
        return (loss * factor if len(calls) == HARMED else loss), sums

    monkeypatch.setattr(tasks.rl.update, "policy_loss", harmed)


def stopped(request: StageRequest) -> str:
    """The message of a round that stops at step HARMED and keeps the state of the step before."""
    with pytest.raises(TrainingStopped) as caught:
        in_process(request)
    assert last_saved_step(request) == HARMED - 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


LEARNS = {**STEPS, "drop_equal_rewards": False, "entropy_coefficient": 0.01}


@pytest.mark.parametrize(
    ("factor", "bound"),
    [
        pytest.param(float("nan"), 0.0, id="nan"),
        pytest.param(1e4, 100.0, id="exploding", marks=pytest.mark.long),
    ],
)
def test_bad_gradient_stops_the_round(
    root: Path,
    inputs: dict[str, ArtifactRef],
    monkeypatch: pytest.MonkeyPatch,
    saw: Callable[[str], None],
    factor: float,
    bound: float,
) -> None:
    """A NaN loss or a gradient norm over the bound stops the round in that step; it resumes from the step before."""
    settings = {**LEARNS, "optimizer": optimizer(grad_norm_bound=bound)}
    request = make_request(root, inputs, f"stop-{bound}", **settings)
    with monkeypatch.context() as patched:
        harm_loss(patched, factor)
        saw(stopped(request))
    healed = metrics_of(request, in_process(request))
    assert [line["step"] for line in healed] == [1, 2, 3, 4]
    assert [line["skipped_updates"] for line in healed] == [0, 0, 0, 0]


@pytest.mark.parametrize("zero_stage", [pytest.param(0, marks=pytest.mark.long), 2])
@pytest.mark.parametrize("factor", [float("nan"), pytest.param(1e4, marks=pytest.mark.long)])
def test_bad_gradient_is_left_out(
    root: Path,
    inputs: dict[str, ArtifactRef],
    monkeypatch: pytest.MonkeyPatch,
    saw: Callable[[str], None],
    factor: float,
    zero_stage: int,
) -> None:
    """With `skip` in the recipe: the step changes no weight and is counted, and the round completes."""
    bound = optimizer(grad_norm_bound=100.0, on_bad_gradient="skip", zero_stage=zero_stage)
    request = make_request(root, inputs, f"skip-{factor}-{zero_stage}", **LEARNS, optimizer=bound)
    weights: list[torch.Tensor] = []
    real = RlRound._sync

    def sync(this_round: RlRound, step: int) -> None:
        weights.append(torch.cat([value.flatten().clone() for _, value in this_round.engine.weights()]))
        real(this_round, step)

    monkeypatch.setattr(RlRound, "_sync", sync)
    harm_loss(monkeypatch, factor)
    metrics = metrics_of(request, in_process(request))
    assert [line["skipped_updates"] for line in metrics] == [0, 0, 1, 0]
    assert [line["updates"] for line in metrics] == [1, 1, 0, 1]
    unchanged = [torch.equal(before, after) for before, after in itertools.pairwise(weights)]
    assert unchanged == [False, False, True, False]
    saw(f"step {HARMED} of 4 left out under ZeRO-{zero_stage}")


def test_nan_in_sft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saw: Callable[[str], None]) -> None:
    """A NaN in SFT's loss stops that step; with `skip` one step is skipped and the final weights are finite."""
    import tasks.sft.training

    scores = tasks.sft.training.TrainingEngine.token_logprobs

    def bad(engine: Any, batch: Any, temperature: float = 1.0) -> torch.Tensor:
        values = scores(engine, batch, temperature)
        return values * float("nan") if engine.num_steps == HARMED - 1 else values

    monkeypatch.setattr(tasks.sft.training.TrainingEngine, "token_logprobs", bad)
    request = sft_world.make_request(tmp_path, checkpoint_every_steps=1)
    with pytest.raises(
        TrainingStopped, match=r"step 3: the gradient's norm is nan.*on_bad_gradient = 'skip'"
    ):
        in_process(request)
    kept = {path.name for path in (Path(request.scratch) / "checkpoints").iterdir()}
    assert kept == {f"step-{HARMED - 1}"}
    skipping = request.model_copy(update={"scratch": str(tmp_path / "skip"), "config": with_skip(request)})
    result = in_process(skipping)
    assert result.metrics["skipped_steps"] == 1
    weights = load_file(Store(request.store).fetch(result.outputs["checkpoint"]) / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    saw(f"stopped at step {HARMED} with step {HARMED - 1} kept; skipped 1 of {result.metrics['steps']}")


def with_skip(request: StageRequest) -> dict[str, Any]:
    sft = request.config["sft"]
    return {**request.config, "sft": {**sft, "optimizer": {**sft["optimizer"], "on_bad_gradient": "skip"}}}


def test_equal_rewards(root: Path, inputs: dict[str, ArtifactRef], saw: Callable[[str], None]) -> None:
    """All rewards are equal, so the loss is empty: the step is skipped and counted, or the round stops, by recipe."""
    settings = {**STEPS, "temperature": 0.01, "steps_per_round": 2}  # nearly greedy: all samples are equal
    request = make_request(root, inputs, "equal", **settings)
    metrics = metrics_of(request, in_process(request))
    empty = [line for line in metrics if line["in_loss"] == 0]
    assert empty and all(line["updates"] == 0 and line["grad_norm"] is line["loss"] is None for line in empty)
    request = make_request(root, inputs, "equal-stop", **settings, on_empty_step="stop")
    with pytest.raises(
        TrainingStopped, match=r"left none of 8 trajectories in the loss .*on_empty_step = 'skip'"
    ):
        in_process(request)
    saw(
        f"{len(empty)} of {len(metrics)} steps empty and passed over; with stop, the first of them ended the round"
    )


def test_collapsed_policy(root: Path, inputs: dict[str, ArtifactRef], saw: Callable[[str], None]) -> None:
    """A collapsed policy (entropy below the bound) stops the round in the step that sampled from it."""
    settings = {**LEARNS, "temperature": 0.01, "min_entropy": 0.001}
    request = make_request(root, inputs, "collapsed", **settings)
    with pytest.raises(TrainingStopped, match=r"the policy's entropy is .*min_entropy = 0.001") as caught:
        in_process(request)
    step = int(str(caught.value).split(":")[0].removeprefix("step "))
    saved = [int(path.name) for path in (Path(request.scratch) / "trainer").iterdir()]
    assert saved == ([step - 1] if step > 1 else [])
    healthy = make_request(root, inputs, "explores", **LEARNS, min_entropy=0.001)
    entropies = [line["entropy"] for line in metrics_of(healthy, in_process(healthy))]
    assert min(entropies) > 0.001
    saw(f"a policy that explores has {min(entropies):.2g} nats a token and went through")


def test_sampler_drifts(
    root: Path, inputs: dict[str, ArtifactRef], monkeypatch: pytest.MonkeyPatch, saw: Callable[[str], None]
) -> None:
    """A weight sync is lost, so sampler and trainer differ: the probe detects it in that step and names the tensors."""
    request = make_request(root, inputs, "drift", **{**LEARNS, "optimizer": optimizer(learning_rate=2e-3)})
    real, syncs = TransformersGenerator.load_weights, []

    def lost(generator: TransformersGenerator, weights: Any) -> None:
        syncs.append(0)
        if len(syncs) != HARMED + 1:  # the first sync is before the first step
            real(generator, weights)

    with monkeypatch.context() as patched:
        patched.setattr(TransformersGenerator, "load_weights", lost)
        message = stopped(request)
    assert "tensors that differ: model.embed_tokens.weight" in message
    saw(message)


def test_reason_in_the_report(tmp_path: Path) -> None:
    """The run's report begins with the reason why a round stopped, as text."""
    request = worlds.report(tmp_path)
    reason = "rl-2 has not finished: step 7: the gradient's norm is nan <script>"
    request.config["report"]["notes"] = [reason]
    result = in_process(request)
    page = (Store(request.store).fetch(result.outputs["report"]) / "report.html").read_text()
    assert "step 7: the gradient&#39;s norm is nan &lt;script&gt;" in page
