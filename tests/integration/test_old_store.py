"""A store of version 0.1.0: its record, evaluation and traces can be read.

`store_of_0_1_0.tar.gz` is a run of train/tiny in small, without its checkpoints.
"""

import tarfile
from pathlib import Path

import pytest

from tasks.recipes import STAGES, resolve_recorded
from tasks.rl.spec import last_round
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.reporting.samples import read_samples
from tasks.shared.runs.record import RunRecord, RunRecords
from tests.integration.evaluation_world import report_request
from tests.integration.stages import in_process

KEPT = {"evaluation", "evaluation_sets", "problems", "rollouts", "traces"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("old")
    with tarfile.open(Path(__file__).with_name("store_of_0_1_0.tar.gz")) as archive:
        archive.extractall(directory / "store", filter="data")
    return directory


@pytest.fixture(scope="module")
def record(root: Path) -> RunRecord:
    return RunRecords(str(root / "store")).read("drill")


def outputs(record: RunRecord) -> dict[str, ArtifactRef]:
    found = {name: ref for stage in record.stages.values() for name, ref in stage.outputs.items()}
    return {name: ref for name, ref in found.items() if name in KEPT}


def test_every_byte_is_what_it_was(root: Path, record: RunRecord) -> None:
    store = Store(str(root / "store"))
    assert set(outputs(record)) == KEPT
    for ref in outputs(record).values():
        assert any(store.fetch(ref).iterdir())


def test_every_stage_can_be_run_again_from_its_record(record: RunRecord) -> None:
    recipe = resolve_recorded(record.recipe, {}, record.run, *STAGES)
    for stage in STAGES:
        recipe.for_stage(stage)
    assert last_round(record.stages) == 1
    assert record.checkpoint("rl-1").kind == "checkpoint"


def test_its_samples_read(root: Path, record: RunRecord) -> None:
    samples = read_samples(Store(str(root / "store")).fetch(outputs(record)["evaluation"]))
    assert len(samples) == 3
    assert all(sample.response_ids and sample.problem for sample in samples)
    assert all(sample.text == "" or sample.token_ends[-1] == len(sample.text) for sample in samples)


def test_a_report_is_made_of_it(root: Path, record: RunRecord) -> None:
    refs = outputs(record)
    inputs = {"evaluation_rl": refs["evaluation"], "traces": refs["traces"]}
    request = report_request(root, inputs)
    report = Store(request.store).fetch(in_process(request).outputs["report"])
    page = (report / "report.html").read_text()
    assert "held_out" in page
    assert "rejected traces" in page
