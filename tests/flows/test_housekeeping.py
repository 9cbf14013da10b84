"""Housekeeping beside a real run: collected all the while it runs, then planned again and with changes."""

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from flows import cluster
from flows.deployments import ROOT
from flows.work_plan import StagePlan, plan_work
from tasks.shared.artifacts import Provenance
from tasks.shared.collection import Policy, collect
from tasks.shared.recipes import load_recipe
from tests.flows.conftest import Prefect, small

RUN = "kept"
OVERRIDES = small(seed=81)
pytestmark = pytest.mark.timeout(600)  # the first test waits for a whole pipeline
STAGES = ["prepare", "synthesize", "sft", "rl-1", "evaluate-rl", "report"]


@pytest.fixture(scope="module")
def collections(prefect: Prefect) -> int:
    """A pipeline beside a collection, five a second, that spares nothing for its youth; how often it collected."""
    with prefect.store.staging("rubbish") as directory:
        (directory / "content").write_text("nobody wants it")
        rubbish = prefect.store.publish("rubbish", directory, Provenance("test", {}, 0, {}))
    finished, count = threading.Event(), 0

    def sweep() -> None:
        nonlocal count
        while not finished.wait(0.2):
            collect(prefect.store, Policy(youngest=timedelta(0)), delete=True)
            count += 1

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        prefect.run("train/tiny", run=RUN, overrides=OVERRIDES)
    finally:
        finished.set()
        sweeper.join()
    assert not prefect.store.exists(rubbish)
    return count


@pytest.fixture
def at_home(prefect: Prefect, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store's place; this process plans as one on the cluster's host would."""
    for name, value in cluster.settings(prefect.home, prefect.cluster.port).items():
        monkeypatch.setenv(name, value)
    return str(prefect.home / "store")


def plan(store: str, **changes: object) -> dict[str, StagePlan]:
    """The plan of the run's recipe with these changes, by stage."""
    changed = OVERRIDES | {name.replace("__", "."): value for name, value in changes.items()}
    return {made.label: made for made in plan_work(load_recipe("tiny", changed), RUN, store)}


def test_a_collection_touches_nothing_of_a_run_beside_it(prefect: Prefect, collections: int) -> None:
    """Every stage was executed once, and what each has made is there to the last byte."""
    assert collections > 20
    record = prefect.record(RUN)
    assert list(record.stages) == STAGES
    for label, stage in record.stages.items():
        assert prefect.executions(RUN, label) == 1
        for ref in (*stage.inputs.values(), *stage.outputs.values()):
            prefect.store.fetch(ref)


def test_what_is_done_is_cached_and_a_change_reruns_what_depends_on_it(
    at_home: str, collections: int
) -> None:
    assert {made.state for made in plan(at_home).values()} == {"cached"}
    changed = plan(at_home, rl__optimizer__learning_rate=1e-3)
    assert [made.state for made in changed.values()] == ["cached"] * 3 + ["will run"] * 3
    assert changed["rl-1"].reasons == ["rl.optimizer.learning_rate: 0.0003 -> 0.001"]
    assert changed["evaluate-rl"].reasons == ["input 'checkpoint' is another"]
    more = plan(at_home, rl__rounds=2)
    assert more["rl-1"].reasons == ["rl.rounds: 1 -> 2"] and more["rl-2"].reasons == ["new in this run"]


def test_missing_inputs_and_files_are_named(prefect: Prefect, at_home: str, collections: int) -> None:
    source = {"name": "own", "source": "file", "path": "/nowhere/own.jsonl"}
    planned = plan(at_home, data__evaluation=[source])
    assert planned["prepare"] == StagePlan("prepare", "missing input", ["no file /nowhere/own.jsonl"])
    assert planned["rl-1"].state == "will run"


def test_an_artifact_that_is_gone_is_made_again(prefect: Prefect, at_home: str, collections: int) -> None:
    """Last in this file: it takes the checkpoint away."""
    prefect.store.remove(prefect.record(RUN).output("sft", "checkpoint").location)
    planned = plan(at_home)
    assert planned["sft"].reasons == ["its outputs are gone from the store"]
    assert planned["rl-1"].state == "will run" and planned["synthesize"].state == "cached"


def test_the_command(prefect: Prefect, collections: int, tmp_path: Path) -> None:
    """Another seed: everything runs, and the command says why; the record is as it was."""
    before = prefect.record(RUN)
    environment = os.environ | cluster.settings(prefect.home, prefect.cluster.port)
    command = [sys.executable, "-m", "flows.cli", "plan", "tiny", "--run", RUN, "--json", "--set", "seed=5"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    stages = {made["label"]: made for made in json.loads(done.stdout)["stages"]}
    assert done.returncode == 0 and "seed" in stages["prepare"]["reasons"][-1]
    assert stages["evaluate-base"]["reasons"] == ["new in this run"]
    assert prefect.record(RUN) == before
