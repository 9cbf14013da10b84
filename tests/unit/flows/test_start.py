"""Records of single stages: `into` adds to a record and removes nothing."""

from pathlib import Path

import pytest

from flows.forms import Form
from flows.start import rerun
from tasks.recipes import load_recipe
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.runs.record import RunRecord, RunRecords, StageRecord


def finished_round(name: str) -> StageRecord:
    """A finished round with a checkpoint of that name."""
    ref = ArtifactRef("checkpoint", name * 64, f"checkpoint/{name * 16}-{name * 8}")
    outputs = {"checkpoint": ref}
    return StageRecord(stage="rl", inputs={}, outputs=outputs, metrics={}, seconds=1.0, finished="")


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecords:
    """Two runs of different recipes, each with a first round; `a` has a second one."""
    monkeypatch.setenv("TIRFLOW_STORE", str(tmp_path))
    records = RunRecords(str(tmp_path))
    for run, seed, rounds in (
        ("a", 0, {"rl-1": finished_round("a"), "rl-2": finished_round("c")}),
        ("b", 1, {"rl-1": finished_round("b")}),
    ):
        records.begin(run, load_recipe("tiny", {"seed": seed}).model_dump(mode="json"), rounds)
    return records


def record_of_b(records: RunRecords, **overrides: object) -> RunRecord:
    """The record of `b` after an evaluation of `a` has started into it; inputs come from `a`."""
    _, taken_from = rerun(Form(run="a", overrides=overrides, into="b"), "evaluate")
    assert taken_from.run == "a"
    return records.read("b")


def test_another_record_keeps_its_own_stages_and_recipe(records: RunRecords) -> None:
    record = record_of_b(records)
    assert record.stages == {"rl-1": finished_round("b"), "rl-2": finished_round("c")}
    assert record.recipe["seed"] == 1


def test_overrides_keep_stages_and_change_the_recipe(records: RunRecords) -> None:
    record = record_of_b(records, seed=7)
    assert record.stages["rl-1"] == finished_round("b") and record.recipe["seed"] == 7


def test_rounds_removed_from_the_recipe_are_left_out(records: RunRecords) -> None:
    assert list(record_of_b(records, **{"rl.rounds": [{}]}).stages) == ["rl-1"]


def test_each_change_without_a_name_is_a_new_run(records: RunRecords) -> None:
    for seed in (7, 8):
        rerun(Form(run="a", overrides={"seed": seed}), "rl")
        assert records.read("a-changed").stages == records.read("a").stages
        records.add("a-changed", "rl-1", finished_round(str(seed)))
    assert records.read("a").stages["rl-1"] == finished_round("a")


def test_a_stage_of_no_run_is_refused(records: RunRecords) -> None:
    with pytest.raises(ValueError, match=r"^run is empty: .* like run=demo$"):
        rerun(Form(), "sft")
