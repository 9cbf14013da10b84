"""The record of a run: descendants of a replaced output are removed from it."""

import hashlib
from pathlib import Path

import pytest

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.runs.record import RunRecords, StageRecord


def ref(kind: str, name: str) -> ArtifactRef:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return ArtifactRef(kind=kind, digest=digest, location=f"{kind}/{digest[:16]}-{digest[:8]}")


def stage(name: str, inputs: dict[str, ArtifactRef], outputs: dict[str, ArtifactRef]) -> StageRecord:
    return StageRecord(stage=name, inputs=inputs, outputs=outputs, metrics={}, seconds=1.0, finished="")


BASE, SFT, FIRST, SECOND = (ref("checkpoint", name) for name in ("base", "sft", "first", "second"))
STAGES = {
    "prepare": stage("prepare", {}, {"checkpoint": BASE}),
    "sft": stage("sft", {"checkpoint": BASE}, {"checkpoint": SFT}),
    "evaluate-sft": stage("evaluate", {"checkpoint": SFT}, {}),
    "rl-1": stage("rl", {"checkpoint": SFT}, {"checkpoint": FIRST}),
    "rl-2": stage("rl", {"checkpoint": FIRST}, {"checkpoint": SECOND}),
    "evaluate-rl": stage("evaluate", {"checkpoint": SECOND}, {}),
}
RECIPE = {"rl": {"rounds": 2}}


@pytest.fixture
def records(tmp_path: Path) -> RunRecords:
    records = RunRecords(str(tmp_path))
    records.begin("run", RECIPE, STAGES)
    return records


def test_a_new_stage_removes_what_the_old_one_led_to(records: RunRecords) -> None:
    records.add("run", "sft", stage("sft", {"checkpoint": BASE}, {"checkpoint": ref("checkpoint", "other")}))
    assert sorted(records.read("run").stages) == ["prepare", "sft"]


def test_the_same_outputs_again_change_nothing(records: RunRecords) -> None:
    records.add("run", "sft", STAGES["sft"])
    assert records.read("run").stages == STAGES


def test_a_missing_output_is_removed_with_its_descendants(records: RunRecords) -> None:
    records.begin("run", {}, is_gone=lambda label: label == "rl-2")
    assert sorted(records.read("run").stages) == ["evaluate-sft", "prepare", "rl-1", "sft"]


def test_a_record_of_the_same_recipe_keeps_its_own_stages(records: RunRecords) -> None:
    other = stage("evaluate", {"checkpoint": BASE}, {"evaluation": ref("evaluation", "elsewhere")})
    records.begin("run-changed", {"seed": 1}, STAGES)
    records.add("run-changed", "evaluate-base", other)
    records.begin("run-changed", {"seed": 1}, STAGES | {"evaluate-base": STAGES["evaluate-sft"]})
    assert records.read("run-changed").stages["evaluate-base"] == other
    records.begin("run-changed", {"seed": 2}, STAGES)
    assert records.read("run-changed").stages == STAGES
    records.add("run-changed", "evaluate-base", other)
    records.begin("run-changed", {"seed": 3}, STAGES, keeps=True)
    assert records.read("run-changed").stages == STAGES | {"evaluate-base": other}


def test_a_store_may_be_a_file_uri(records: RunRecords, tmp_path: Path) -> None:
    named = RunRecords(f"file://{tmp_path}")
    named.begin("other", {})
    assert named.names() == records.names() and set(named.names()) == {"run", "other"}


def test_why_a_stage_failed_is_told_until_it_finishes(records: RunRecords) -> None:
    records.stop("run", "rl-2", "step 7: the gradient's norm is nan")
    records.stop("run", "rl-2", "step 8: the gradient's norm is nan")
    assert records.read("run").stopped == {"rl-2": "step 8: the gradient's norm is nan"}
    records.add("run", "rl-2", STAGES["rl-2"])
    assert records.read("run").stopped == {}
