"""Stage `rl` as the launcher runs it, with the real sandbox and DeepSpeed: it learns, resumes to the bit, continues."""

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
from tests.integration.processes import StageProcess
from tests.integration.rl_world import OPTIMIZER, make_request, make_store
from tests.integration.stages import in_process, outputs_of, read_lines, run_to_end

PPO = {"algorithm": "ppo", "critic": {"learning_rate": 1e-3, "warmup_steps": 2}, "sinks": ["tensorboard"]}
FAST = {"steps_per_round": 3, "prompts_per_step": 2, "samples_per_prompt": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rl")


@pytest.fixture(scope="module")
def inputs(root: Path) -> dict[str, ArtifactRef]:
    return make_store(root)


def fetch(root: Path, ref: ArtifactRef) -> Path:
    return Store(str(root / "store")).fetch(ref)


@pytest.fixture(scope="module")
def learned(root: Path, inputs: dict[str, ArtifactRef]) -> dict[str, ArtifactRef]:
    """The outputs of a round of eight steps."""
    events = run_to_end(root / "learn", make_request(root, inputs, "learn"))
    assert [event["event"] for event in events[-2:]] == ["progress", "result"]
    return outputs_of(root / "learn")


@pytest.fixture(scope="module")
def short(root: Path, inputs: dict[str, ArtifactRef]) -> dict[str, ArtifactRef]:
    """The outputs of a round of three small steps."""
    run_to_end(root / "short", make_request(root, inputs, "short", **FAST))
    return outputs_of(root / "short")


@pytest.fixture(scope="module")
def ppo(root: Path, inputs: dict[str, ArtifactRef]) -> dict[str, ArtifactRef]:
    """The outputs of a round of PPO."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIRFLOW_HOME", str(root / "home"))
        return in_process(make_request(root, inputs, "ppo", **PPO)).outputs


def test_a_round_learns_to_run_the_code(root: Path, learned: dict[str, ArtifactRef]) -> None:
    """Half of the samples guess wrong at first. After eight steps nearly all run the code and are right."""
    metrics = read_lines(fetch(root, learned["checkpoint"]) / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, 9))
    assert 0.2 < metrics[0]["accuracy"] < 0.8
    assert metrics[-1]["accuracy"] > metrics[0]["accuracy"] + 0.15
    assert metrics[-1]["code_ratio"] > metrics[0]["code_ratio"] + 0.15
    for line in metrics:
        assert line["probe_gap"] < 1e-4  # float32
        assert line["gap_max"] < 1e-4
        assert line["outages"] == 0
    timing = read_lines(fetch(root, learned["rollouts"]) / "circumstances/timing.jsonl")
    assert {"seconds/sample", "seconds/update", "sampling_tokens_per_s", "sandbox"} <= set(timing[0])
    check_rollouts(pd.read_parquet(fetch(root, learned["rollouts"]) / "train.parquet"))


def check_rollouts(rollouts: pd.DataFrame) -> None:
    """Every row is a whole trajectory, and its training columns are consistent."""
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


def test_killed_and_resumed_ends_with_the_same_weights(
    root: Path, inputs: dict[str, ArtifactRef], learned: dict[str, ArtifactRef]
) -> None:
    """SIGKILL between two steps' lines. The resumed round publishes the checkpoint of an undisturbed one."""
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
    resumed = outputs_of(killed)
    assert resumed["checkpoint"].digest == learned["checkpoint"].digest
    columns = ["step", "problem_id", "sample", "response_ids", "logprobs", "advantage"]
    first, second = (
        pd.read_parquet(fetch(root, outputs["rollouts"]) / "train.parquet", columns=columns)
        for outputs in (learned, resumed)
    )
    assert first.to_json() == second.to_json()


def test_two_ranks_learn_what_one_learns(
    root: Path, inputs: dict[str, ArtifactRef], short: dict[str, ArtifactRef]
) -> None:
    """Samples and rows are distributed, ZeRO-2 shards the optimizer. Three steps give the weights of one rank."""
    optimizer = OPTIMIZER.model_copy(update={"ranks": 2, "zero_stage": 2})
    run_to_end(root / "two", make_request(root, inputs, "two", **FAST, optimizer=optimizer))
    one, two = (
        load_file(fetch(root, outputs["checkpoint"]) / "model.safetensors")
        for outputs in (short, outputs_of(root / "two"))
    )
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=2e-5), name


def test_the_next_round_goes_on_where_the_last_one_ended(
    root: Path, inputs: dict[str, ArtifactRef], short: dict[str, ArtifactRef]
) -> None:
    """Also covers another algorithm, several mini-batches and KL to a reference."""
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
        "checkpoint": short["checkpoint"],
        "problems": inputs["problems"],
        "trainer_state": short["trainer_state"],
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
    seen = pd.read_parquet(fetch(root, short["rollouts"]) / "train.parquet").problem_id
    now = pd.read_parquet(fetch(root, outputs_of(directory)["rollouts"]) / "train.parquet").problem_id
    assert not set(seen) & set(now)  # 12 problems, 3 steps of 2 per round: an epoch is both rounds


def test_ppo_learns_to_run_the_code(root: Path, ppo: dict[str, ArtifactRef]) -> None:
    """Only the critic learns in the first two steps."""
    metrics = read_lines(fetch(root, ppo["checkpoint"]) / "metrics.jsonl")
    assert [line["updates"] for line in metrics] == [0, 0] + [1] * 6
    assert [line["critic_updates"] for line in metrics] == [1] * 8
    assert max(line["accuracy"] for line in metrics[:3]) < 0.7
    assert min(line["accuracy"] for line in metrics[-2:]) > 0.75
    assert metrics[0]["explained_variance"] == 0  # a new critic knows nothing
    assert metrics[5]["explained_variance"] > 0.03
    assert metrics[7]["value_loss"] < 0.8 * metrics[0]["value_loss"]


def test_ppo_killed_twice_ends_with_the_same_bits(
    root: Path,
    inputs: dict[str, ArtifactRef],
    ppo: dict[str, ArtifactRef],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGKILL at two random moments of a round: while it samples, learns, syncs or saves.

    Policy and critic are equal.
    """
    monkeypatch.setenv("TIRFLOW_HOME", str(root / "home"))
    killed, moments = root / "ppo_killed", random.Random(0)
    timing = read_lines(fetch(root, ppo["rollouts"]) / "circumstances/timing.jsonl")
    request = make_request(root, inputs, "ppo_killed", **PPO)
    step_s = min(line["seconds/step"] for line in timing)
    for _ in range(2):
        process = StageProcess(killed, request)
        next(line for line in process.stdout if json.loads(line)["event"] == "progress")
        time.sleep(moments.uniform(0, 0.5 * step_s))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    run_to_end(killed, request)
    resumed = outputs_of(killed)
    assert resumed["checkpoint"].digest == ppo["checkpoint"].digest
    critics = [critic_weights(fetch(root, made["trainer_state"])) for made in (ppo, resumed)]
    assert critics[0] and all(torch.equal(critics[0][name], critics[1][name]) for name in critics[0])
    metrics = read_lines(fetch(root, ppo["checkpoint"]) / "metrics.jsonl")
    assert check_tensorboard(root / "home/tensorboard/test/rl") == [line["accuracy"] for line in metrics]


def critic_weights(trainer_state: Path) -> dict[str, torch.Tensor]:
    [path] = trainer_state.glob("trainer/critic/step-8/mp_rank_00_model_states.pt")
    return torch.load(path, weights_only=True)["module"]


def check_tensorboard(directory: Path) -> list[float]:
    """Check the accuracies that TensorBoard reads: every start wrote there, each step counts once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    scalars = events.Scalars("accuracy")
    assert [event.step for event in scalars] == list(range(1, 9))
    assert {"reward", "value_loss", "explained_variance", "seconds/step"} <= set(events.Tags()["scalars"])
    return [pytest.approx(event.value, abs=1e-6) for event in scalars]


def test_ppo_goes_on_from_a_round_of_ppo_alone(
    root: Path, inputs: dict[str, ArtifactRef], short: dict[str, ArtifactRef]
) -> None:
    later = {**inputs, "checkpoint": short["checkpoint"], "trainer_state": short["trainer_state"]}
    with pytest.raises(ValueError, match=r"no critic in this trainer state; rl\.algorithm = 'ppo' continues"):
        in_process(make_request(root, later, "no_critic", **FAST, algorithm="ppo"))


def test_a_trainer_state_needs_the_checkpoint_of_its_round(
    root: Path, inputs: dict[str, ArtifactRef], short: dict[str, ArtifactRef]
) -> None:
    later = {**inputs, "trainer_state": short["trainer_state"]}
    with pytest.raises(ValueError, match=r"'checkpoint' .* is not of the round that made 'trainer_state'"):
        in_process(make_request(root, later, "other", **FAST))


def test_every_stabiliser_at_once(root: Path, inputs: dict[str, ArtifactRef]) -> None:
    """Refill, resample-on-correct, sequence mask, constant reduction, CISPO, offload and a reward function together."""
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
