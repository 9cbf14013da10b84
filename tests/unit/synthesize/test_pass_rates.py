"""Pass rates from real rollouts and evaluations, and their way from the flow into the stage."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

import tasks.synthesize.task
from flows.stages import synthesize
from tasks.recipes import load_recipe
from tasks.rl.experience import build_experience, score
from tasks.rl.problems import RlProblem
from tasks.rl.rollouts import RolloutShards
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.stage import StageResult
from tasks.shared.reporting.samples import write_samples
from tasks.shared.runs.record import RunRecords, StageRecord
from tasks.shared.traces.trajectory import FinishReason
from tasks.synthesize.selection import read_pass_rates
from tests.unit.reporting.making import make_sample
from tests.unit.rl.test_experience import decode, make_trajectory, stage

OUTAGE = FinishReason.SANDBOX_FAILURE


def test_rollouts_count_void_turns_as_wrong_and_outages_not_at_all(tmp_path: Path) -> None:
    said_of = {
        "outages": [("\\boxed{5}", FinishReason.EOS)] * 2 + [("code", OUTAGE)] * 2,
        "some void": [("\\boxed{5}", FinishReason.EOS)] * 2 + [("no idea", FinishReason.EOS)] * 2,
        "all void": [("no idea", FinishReason.EOS)] * 4,
    }
    problems = [RlProblem(name, "5", "", (1,)) for name in said_of]
    trajectories = [
        make_trajectory(name, sample, text, finish)
        for name, samples in said_of.items()
        for sample, (text, finish) in enumerate(samples)
    ]
    config = stage()
    shards = RolloutShards(tmp_path / "shards")
    shards.write(1, 1, build_experience(score(trajectories, problems, config), config, decode, seed=1))
    (tmp_path / "rollouts").mkdir()
    shards.publish(tmp_path / "rollouts", 1, 1)
    assert read_pass_rates(tmp_path / "rollouts") == {"outages": 1.0, "some void": 0.5, "all void": 0.0}


def test_an_evaluation_leaves_out_samples_whose_sandbox_failed(tmp_path: Path) -> None:
    samples = [make_sample([], "5", "5", problem="q")]
    samples += [make_sample([], "5", "6", problem="q", sample=1 + i) for i in range(3)]
    samples += [make_sample([], "5", None, problem="q", sample=4 + i, finish=OUTAGE) for i in range(9)]
    write_samples(tmp_path, samples)
    assert read_pass_rates(tmp_path) == {"q": 0.25}


def test_another_artifact_has_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give an evaluation of the training problems or the rollouts"):
        read_pass_rates(tmp_path)


@pytest.mark.parametrize(
    ("name", "taken"), [("done/rl-2", "rollouts"), ("done/train", "evaluation"), ("", None)]
)
def test_the_flow_gives_them_to_the_stage(
    name: str, taken: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIRFLOW_STORE", str(tmp_path))
    records = RunRecords(str(tmp_path))
    records.begin("done", load_recipe("tiny", {"rl.rounds": 2}).model_dump(mode="json"))
    for label, kinds in {
        "prepare": ("problems", "evaluation_sets"),
        "rl-2": ("rollouts",),
        "evaluate-train": ("evaluation",),
    }.items():
        records.add("done", label, _finished(label, kinds))
    given: dict[str, ArtifactRef] = {}

    def run_stage(
        run: object, spec: object, inputs: dict[str, ArtifactRef], *_: Any, **__: Any
    ) -> StageResult:
        given.update(inputs)
        return StageResult(outputs={"traces": _ref("traces")}, metrics={})

    monkeypatch.setattr(tasks.synthesize.task, "run_stage", run_stage)
    synthesize.fn(run="done", pass_rates=name)
    assert given.get("pass_rates") == (taken and _ref(taken))


def _finished(label: str, kinds: tuple[str, ...]) -> StageRecord:
    outputs = {kind: _ref(kind) for kind in kinds}
    return StageRecord(
        stage=label.partition("-")[0], inputs={}, outputs=outputs, metrics={}, seconds=1.0, finished=""
    )


def _ref(kind: str) -> ArtifactRef:
    return ArtifactRef(kind, hashlib.sha256(kind.encode()).hexdigest(), f"{kind}/0123456789abcdef-01234567")
