"""Stage `rl` as the launcher runs it, with the real sandbox and DeepSpeed: it learns, resumes to the bit, goes on."""

import json
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.stage import StageResult
from tests.integration.processes import StageProcess
from tests.integration.rl_world import OPTIMIZER, make_request, make_store
from tests.integration.stages import in_process, outputs_of, read_lines, run_to_end

FAST = {"steps_per_round": 3, "prompts_per_step": 2, "samples_per_prompt": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rl")


@pytest.fixture(scope="module")
def inputs(root: Path) -> dict[str, ArtifactRef]:
    return make_store(root)


def fetch(root: Path, ref: ArtifactRef) -> Path:
    return Store(str(root / "store")).fetch(ref)


def test_a_round_learns_to_run_the_code(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    """Half of the samples guess wrong at first; after eight steps nearly all run the code and are right."""
    directory = root / "learn"
    events = run_to_end(directory, make_request(root, inputs, "learn"))
    assert [event["event"] for event in events[-2:]] == ["progress", "result"]
    outputs = outputs_of(directory)
    metrics = read_lines(fetch(root, outputs["checkpoint"]) / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, 9))
    assert 0.2 < metrics[0]["accuracy"] < 0.8
    assert metrics[-1]["accuracy"] > metrics[0]["accuracy"] + 0.15
    assert metrics[-1]["code_ratio"] > metrics[0]["code_ratio"] + 0.15
    for line in metrics:
        assert line["probe_gap"] < 1e-4  # float32
        assert line["gap_max"] < 1e-4
        assert line["outages"] == 0
    timing = read_lines(fetch(root, outputs["rollouts"]) / "circumstances/timing.jsonl")
    assert {"seconds/sample", "seconds/update", "sampling_tokens_per_s", "sandbox"} <= set(timing[0])
    check_rollouts(pd.read_parquet(fetch(root, outputs["rollouts"]) / "train.parquet"))


def check_rollouts(rollouts: pd.DataFrame) -> None:
    """Every row is a whole trajectory, and what the update saw of it fits together."""
    assert len(rollouts) == 8 * 4 * 8
    assert rollouts.groupby(["step", "problem_id"]).size().eq(8).all()
    for row in rollouts.itertuples():
        assert len(row.response_ids) == len(row.sampled) == len(row.logprobs)
        feedback = {i for call in row.calls for i in range(call["turn_end"], call["feedback_end"])}
        assert [i for i, sampled in enumerate(row.sampled) if not sampled] == sorted(feedback)
        assert all((value != 0) <= sampled for value, sampled in zip(row.logprobs, row.sampled, strict=True))
        assert row.reward == (1 if row.correct else -1)
        assert not (row.in_loss and row.void)
    for _, group in rollouts.groupby(["step", "problem_id"]):
        assert abs(group.advantage.sum()) < 1e-4
        if group.reward.nunique() == 1:
            assert not group.in_loss.any()


def test_killed_and_resumed_ends_with_the_same_weights(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    """SIGKILL between two steps' lines; the resumed round publishes the very checkpoint of the one left alone."""
    killed = root / "killed"
    process = StageProcess(killed, make_request(root, inputs, "killed"))
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["step"] == 3:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert not (killed / "result.json").exists()
    events = run_to_end(killed, make_request(root, inputs, "killed"))
    steps = [event["step"] for event in events if event["event"] == "progress"]
    assert 3 <= steps[0] <= 5 and steps[-1] == 8
    whole, resumed = outputs_of(root / "learn"), outputs_of(killed)
    assert resumed["checkpoint"].digest == whole["checkpoint"].digest
    columns = ["step", "problem_id", "sample", "response_ids", "logprobs", "advantage"]
    first, second = (
        pd.read_parquet(fetch(root, outputs["rollouts"]) / "train.parquet", columns=columns)
        for outputs in (whole, resumed)
    )
    assert first.to_json() == second.to_json()


def test_two_ranks_learn_what_one_learns(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    """Samples and rows are shared out, ZeRO-2 shards the optimizer; three steps give the weights of one rank."""
    weights = []
    for name, ranks in (("one", 1), ("two", 2)):
        optimizer = OPTIMIZER.model_copy(update={"ranks": ranks, "zero_stage": 2 if ranks == 2 else 0})
        run_to_end(root / name, make_request(root, inputs, name, **FAST, optimizer=optimizer))
        weights.append(load_file(fetch(root, outputs_of(root / name)["checkpoint"]) / "model.safetensors"))
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=2e-5), name


def test_the_next_round_goes_on_where_the_last_one_ended(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    """With another algorithm, several mini-batches, KL to a reference and ZeRO-2, so that these run too."""
    before = outputs_of(root / "one")
    changed = {
        **FAST,
        "algorithm": "rloo",
        "reduction": "sequence",
        "mini_batches": 2,
        "kl_coefficient": 0.1,
        "entropy_coefficient": 0.01,
        "drop_equal_rewards": False,
    }
    later = {
        "checkpoint": before["checkpoint"],
        "problems": inputs["problems"],
        "trainer_state": before["trainer_state"],
        "reference": inputs["checkpoint"],
    }
    directory = root / "second"
    run_to_end(directory, make_request(root, later, "second", **changed))
    metrics = read_lines(fetch(root, outputs_of(directory)["checkpoint"]) / "metrics.jsonl")
    assert [(line["round"], line["step"], line["updates"]) for line in metrics] == [
        (2, 4, 2),
        (2, 5, 2),
        (2, 6, 2),
    ]
    assert all(line["kl_reference"] > 0 for line in metrics)
    assert any(line["kl_old"] > 0 for line in metrics)  # the second mini-batch is off the sampling policy
    seen = pd.read_parquet(fetch(root, before["rollouts"]) / "train.parquet").problem_id
    now = pd.read_parquet(fetch(root, outputs_of(directory)["rollouts"]) / "train.parquet").problem_id
    assert not set(seen) & set(now)  # 12 problems, 3 steps of 2 a round: an epoch is both rounds


PPO = {
    "algorithm": "ppo",
    "critic": {"learning_rate": 1e-3, "warmup_steps": 2},
    "sinks": ["tensorboard"],
}


def test_ppo_learns_to_run_the_code(
    root: Path, inputs: dict[str, ArtifactRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The critic alone learns in the first two steps."""
    monkeypatch.setenv("TIRFLOW_HOME", str(root / "home"))
    outputs = in_process(make_request(root, inputs, "ppo", **PPO)).outputs
    (root / "ppo" / "result.json").write_text(StageResult(outputs=outputs, metrics={}).model_dump_json())
    metrics = read_lines(fetch(root, outputs["checkpoint"]) / "metrics.jsonl")
    assert [line["updates"] for line in metrics] == [0, 0] + [1] * 6
    assert [line["critic_updates"] for line in metrics] == [1] * 8
    assert max(line["accuracy"] for line in metrics[:3]) < 0.7
    assert min(line["accuracy"] for line in metrics[-2:]) > 0.75
    assert metrics[0]["explained_variance"] == 0  # a new critic knows nothing
    assert metrics[5]["explained_variance"] > 0.03
    assert metrics[7]["value_loss"] < 0.8 * metrics[0]["value_loss"]


def test_ppo_killed_twice_ends_with_the_same_bits(
    root: Path, inputs: dict[str, ArtifactRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at two random moments of a round: while it samples, learns, syncs or saves. Policy and critic agree."""
    monkeypatch.setenv("TIRFLOW_HOME", str(root / "home"))
    killed, moments = root / "ppo_killed", random.Random(0)
    timing = read_lines(fetch(root, outputs_of(root / "ppo")["rollouts"]) / "circumstances/timing.jsonl")
    request = make_request(root, inputs, "ppo_killed", **PPO)
    step_s = min(line["seconds/step"] for line in timing)
    for _ in range(2):
        process = StageProcess(killed, request)
        next(line for line in process.stdout if json.loads(line)["event"] == "progress")
        time.sleep(moments.uniform(0, 0.5 * step_s))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    run_to_end(killed, request)
    whole, resumed = outputs_of(root / "ppo"), outputs_of(killed)
    assert resumed["checkpoint"].digest == whole["checkpoint"].digest
    critics = [critic_weights(fetch(root, made["trainer_state"])) for made in (whole, resumed)]
    assert critics[0] and all(torch.equal(critics[0][name], critics[1][name]) for name in critics[0])
    metrics = read_lines(fetch(root, whole["checkpoint"]) / "metrics.jsonl")
    assert check_tensorboard(root / "home/tensorboard/test/rl") == [line["accuracy"] for line in metrics]


def critic_weights(trainer_state: Path) -> dict[str, torch.Tensor]:
    [path] = trainer_state.glob("trainer/critic/step-8/mp_rank_00_model_states.pt")
    return torch.load(path, weights_only=True)["module"]


def check_tensorboard(directory: Path) -> list[float]:
    """The accuracies that TensorBoard reads: every start wrote there, each step counts once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    scalars = events.Scalars("accuracy")
    assert [event.step for event in scalars] == list(range(1, 9))
    assert {"reward", "value_loss", "explained_variance", "seconds/step"} <= set(events.Tags()["scalars"])
    return [pytest.approx(event.value, abs=1e-6) for event in scalars]


def test_ppo_goes_on_from_a_round_of_ppo_alone(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    before = outputs_of(root / "one")
    later = {**inputs, "checkpoint": before["checkpoint"], "trainer_state": before["trainer_state"]}
    with pytest.raises(ValueError, match=r"no critic in this trainer state; rl\.algorithm = 'ppo' continues"):
        in_process(make_request(root, later, "no_critic", **FAST, algorithm="ppo"))


def test_a_state_goes_on_with_the_checkpoint_of_its_own_round_alone(
    root: Path, inputs: dict[str, ArtifactRef]
) -> None:
    later = {**inputs, "trainer_state": outputs_of(root / "one")["trainer_state"]}
    with pytest.raises(ValueError, match=r"'checkpoint' .* is not of the round that made 'trainer_state'"):
        in_process(make_request(root, later, "other", **FAST))


def test_every_stabiliser_at_once(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    """Refill, resample-on-correct, sequence mask, constant reduction, CISPO, offload, own reward: all at once."""
    reward = root / "rewards.py"
    reward.write_text(
        "def score(responses):\n    return [3.0 if one['correct'] else -1.0 for one in responses]\n"
    )
    settings = {
        "reward": f"{reward}:score",
        "objective": "cispo",
        "resample_format_penalty": True,
        "steps_per_round": 1,
        "prompts_per_step": 2,
        "samples_per_prompt": 2,
        "algorithm": "dr_grpo",
        "reduction": "constant",
        "resample_attempts": 3,
        "resample_on_correct": True,
        "sequence_mask": 1.5,
        "dual_clip": 0,
        "importance_cap": 0,
        "optimizer": OPTIMIZER.model_copy(
            update={"zero_stage": 1, "offload": True, "gradient_checkpointing": True}
        ),
    }
    outputs = in_process(make_request(root, inputs, "stabilisers", **settings)).outputs
    [metrics] = read_lines(fetch(root, outputs["checkpoint"]) / "metrics.jsonl")
    assert metrics["trajectories"] == 4 * metrics["groups"] == 2 * metrics["dropped"]
    assert metrics["groups"] >= 2 and metrics["updates"] == 1 and metrics["grad_norm"] > 0
    assert metrics["masked_fraction"] == 0  # sampler and trainer agree in float32
    rollouts = pd.read_parquet(fetch(root, outputs["rollouts"]) / "train.parquet")
    assert list(rollouts["reward"]) == [3.0 if correct else -1.0 for correct in rollouts["correct"]]


def test_mistakes_are_one_line_with_the_remedy(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    with pytest.raises(ValueError, match=r"rl\.tokens_per_micro_batch = 100 .* raise it to 160 or more"):
        in_process(make_request(root, inputs, "small", tokens_per_micro_batch=100))
    with pytest.raises(ValueError, match=r"rl\.prompts_per_step = 13, but there are 12 problems; lower it"):
        in_process(make_request(root, inputs, "many", prompts_per_step=13))
    with pytest.raises(ValueError, match="needs input 'reference'"):
        in_process(make_request(root, inputs, "reference", kl_coefficient=0.1))
