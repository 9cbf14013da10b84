"""The pipeline on a real server with real stages: killed, run again beside a collection, planned, forced, scheduled.

One run is carried through the tests of this file in order; each also passes alone, since fixtures make what it needs.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas
import pytest

from flows.planning.dry_run import StageOutlook, outlook
from flows.server import cluster
from flows.server.deployments import ROOT
from flows.start import RECORD
from tasks.recipes import load_recipe
from tasks.shared.artifacts import ArtifactRef, Provenance, Store
from tasks.shared.artifacts.lineage import lineage
from tasks.shared.runs.collection import Policy, collect
from tests.flows.conftest import Prefect, as_json, small, until

RUN = "drill"
# Long enough for a kill; the same recipe is run again.
OVERRIDES = small(**{"sft.max_steps": 40, "sft.epochs": 50})


@pytest.fixture(scope="module")
def killed(prefect: Prefect) -> int:
    """Run the pipeline and kill the SFT process. Returns the last step that SFT had reported."""
    flow_run = prefect.start("train/tiny", run=RUN, overrides=OVERRIDES)

    def step() -> int:
        return max((e["step"] for e in prefect.events(RUN, "sft") if e["event"] == "progress"), default=0)

    until(lambda: step() >= 6)
    process = prefect.stage_process("sft")
    assert process is not None
    process.send_signal(signal.SIGKILL)
    ended = prefect.wait(flow_run)
    assert ended["state_type"] == "FAILED"
    assert "stage 'sft' was killed by SIGKILL" in ended["state"]["message"]
    assert prefect.stages(ended) == {"prepare": "Completed", "synthesize": "Completed", "sft": "Failed"}
    return step()


def make_unreferenced(store: Store) -> ArtifactRef:
    """An artifact that no run knows."""
    with store.staging("unreferenced") as directory:
        (directory / "content").write_text("nobody wants it")
        return store.publish("unreferenced", directory, Provenance("test", {}, 0, {}))


@contextmanager
def collecting(store: Store) -> Iterator[Counter[str]]:
    """Collect the store within the block. Yields how often."""
    finished, count = threading.Event(), Counter[str]()

    def sweep() -> None:
        while not finished.wait(0.2):
            collect(store, Policy(youngest=timedelta(0)), delete=True)
            count["collections"] += 1

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        yield count
    finally:
        finished.set()
        sweeper.join()


@pytest.fixture(scope="module")
def finished(prefect: Prefect, killed: int) -> dict[str, Any]:
    """The flow run of the pipeline, run again to its end.

    Five collections a second beside it spare no new artifact, and take only what nothing references.
    """
    unreferenced = make_unreferenced(prefect.store)
    with collecting(prefect.store) as collections:
        again = prefect.run("train/tiny", run=RUN, overrides=OVERRIDES)
    assert collections.total() > 20 and not prefect.store.exists(unreferenced)
    return again


def test_the_next_run_reuses_finished_and_resumes_killed_stages(
    prefect: Prefect, killed: int, finished: dict[str, Any]
) -> None:
    for stage in prefect.record(RUN).stages.values():
        for ref in (*stage.inputs.values(), *stage.outputs.values()):
            prefect.store.fetch(ref)
    states = prefect.stages(finished)
    assert {states["prepare"], states["synthesize"]} == {"Cached"}
    assert {states[label] for label in ("sft", "rl-1", "evaluate-rl", "report")} == {"Completed"}
    assert [prefect.starts(RUN, label) for label in ("prepare", "synthesize", "sft", "rl-1")] == [
        1,
        1,
        2,
        1,
    ]
    events = prefect.events(RUN, "sft")
    second = events[max(i for i, event in enumerate(events) if event["event"] == "start") :]
    first_step = next(event["step"] for event in second if event["event"] == "progress")
    assert first_step > 2, "SFT began anew"
    assert first_step <= killed + 2
    metrics = prefect.store.fetch(prefect.record(RUN).output("sft", "checkpoint")) / "metrics.jsonl"
    assert len(metrics.read_text().splitlines()) == OVERRIDES["sft.max_steps"]


def test_lineage_leads_from_a_score_to_the_problems(prefect: Prefect, finished: dict[str, Any]) -> None:
    found = lineage(prefect.store, prefect.record(RUN).output("evaluate-rl", "evaluation"))
    kinds = {ref.kind for ref in found}
    assert {"evaluation", "checkpoint", "traces", "problems", "evaluation_sets"} <= kinds
    assert {manifest.provenance.stage for manifest in found.values() if manifest} == {
        "prepare",
        "synthesize",
        "sft",
        "rl",
        "evaluate",
    }


def test_the_server_shows_scores_and_locations(prefect: Prefect, finished: dict[str, Any]) -> None:
    artifacts = {artifact["key"]: artifact for artifact in prefect.filter("artifacts", {})}
    assert artifacts[f"{RUN}-scores"]["type"] == "table"
    assert "report.html" in artifacts[f"{RUN}-run"]["data"]
    assert artifacts[f"{RUN}-sft"]["type"] == "progress"


def test_one_stage_by_its_deployment_with_changed_parameters(
    prefect: Prefect, finished: dict[str, Any]
) -> None:
    before = prefect.record(RUN)
    change = as_json({"sft.max_steps": 3})
    done = prefect.cli(
        "deployment", "run", "sft/local", "-p", f"run={RUN}", "-p", f"overrides={change}", "--watch"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    changed = prefect.record(f"{RUN}-changed")
    assert changed.stages["sft"].metrics["steps"] == 3
    assert changed.stages["sft"].inputs == before.stages["sft"].inputs
    assert changed.output("sft", "checkpoint") != before.output("sft", "checkpoint")
    assert prefect.record(RUN) == before


@pytest.mark.parametrize(
    ("deployment", "parameters", "label"),
    [
        pytest.param("synthesize/local", {}, "synthesize", marks=pytest.mark.long),
        ("rl/local", {"number": 1}, "rl-1"),
        ("again/local", {"label": "evaluate-rl"}, "evaluate-rl"),
    ],
)
def test_a_stage_by_itself_takes_the_runs_own_inputs(
    prefect: Prefect, finished: dict[str, Any], deployment: str, parameters: dict[str, object], label: str
) -> None:
    before = prefect.record(RUN)
    ran = prefect.run(deployment, run=RUN, **parameters)
    assert prefect.stages(ran) == {label: "Cached"} and ran["labels"][RECORD] == RUN
    assert prefect.record(RUN).stages[label].outputs == before.stages[label].outputs


def test_force_repeats_stages_with_equal_outputs(prefect: Prefect, finished: dict[str, Any]) -> None:
    before = prefect.record(RUN).stages["prepare"].outputs
    starts = prefect.starts(RUN, "prepare")
    prefect.run("prepare/local", run=RUN, force=True)
    assert prefect.starts(RUN, "prepare") == starts + 1
    assert prefect.record(RUN).stages["prepare"].outputs == before


def test_only_a_deleted_output_is_made_again(prefect: Prefect, finished: dict[str, Any]) -> None:
    before = prefect.record(RUN)
    starts = {label: prefect.starts(RUN, label) for label in ("synthesize", "sft")}
    traces = before.output("synthesize", "traces")
    shutil.rmtree(prefect.store.fetch(traces))
    again = prefect.run("train/tiny", run=RUN, overrides=OVERRIDES)
    assert prefect.starts(RUN, "synthesize") == starts["synthesize"] + 1
    assert prefect.starts(RUN, "sft") == starts["sft"]
    assert {state for label, state in prefect.stages(again).items() if label != "synthesize"} == {"Cached"}
    assert {label: stage.outputs for label, stage in prefect.record(RUN).stages.items()} == {
        label: stage.outputs for label, stage in before.stages.items()
    }
    assert prefect.store.fetch(traces).is_dir()


def test_problem_files_are_evaluated_through_the_same_deployment(
    prefect: Prefect, finished: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"problem": "What is 2 plus 3?", "answer": 5}\n{"problem": "What is 4 times 3?", "answer": "12"}\n'
    )
    ran = prefect.run("evaluate/local", run=RUN, checkpoint="sft", problems=[str(path)], into="mine")
    assert ran["labels"][RECORD] == "mine"
    record = prefect.record("mine")
    assert record.stages["evaluate-sft"].metrics["mine/problems"] == 2
    samples = pandas.read_parquet(
        prefect.store.fetch(record.output("evaluate-sft", "evaluation")) / "samples.parquet"
    )
    assert set(samples["answer"]) == {"5", "12"}


def test_a_schedule_by_rounds_changes_what_each_round_may_do(
    prefect: Prefect, finished: dict[str, Any]
) -> None:
    """Everything before RL is the run's; only the rounds differ."""
    short = {"generation": {"max_response_tokens": 16}, "traces": {"max_calls": 1}}
    run = prefect.run("train/tiny_lengths", run="lengths", overrides=OVERRIDES | {"rl.rounds": [short, {}]})
    stages = prefect.stages(run)
    assert [stages[label] for label in ("sft", "rl-1", "rl-2")] == ["Cached", "Completed", "Completed"]
    record = prefect.record("lengths")
    longest = []
    for number in (1, 2):
        rollouts = prefect.store.fetch(record.output(f"rl-{number}", "rollouts"))
        table = pandas.read_parquet(rollouts / "train.parquet")
        assert set(table["step"]) == {number}
        longest.append(int(table["response_ids"].map(len).max()))
    assert longest == [16, OVERRIDES["generation.max_response_tokens"]]


def test_the_nightly_evaluation_has_runs_scheduled(prefect: Prefect) -> None:
    deployment = prefect.filter("deployments", {"deployments": {"name": {"any_": ["nightly"]}}})[0]
    body = {
        "deployments": {"id": {"any_": [deployment["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    until(lambda: len(prefect.filter("flow_runs", body)) >= 2)
    assert all(run["auto_scheduled"] for run in prefect.filter("flow_runs", body))


def test_a_cancelled_run_ends_its_stage(prefect: Prefect, killed: int) -> None:
    flow_run = prefect.start(
        "sft/local", run=RUN, overrides={"sft.max_steps": 5000, "sft.epochs": 5000}, into="long"
    )
    until(lambda: any(event["event"] == "progress" for event in prefect.events("long", "sft")))
    process = prefect.stage_process("sft")
    assert process is not None
    assert prefect.cli("flow-run", "cancel", str(flow_run)).returncode == 0
    until(lambda: not process.is_running(), timeout_s=120)
    assert prefect.wait(flow_run)["state_type"] == "CANCELLED"


def test_a_mistake_in_a_recipe_fails_before_anything_starts(prefect: Prefect) -> None:
    failed = prefect.wait(prefect.start("train/tiny", run="mistake", overrides={"sft.max_step": 3}))
    assert failed["state_type"] == "FAILED"
    assert "unknown key 'sft.max_step'; did you mean 'max_steps'?" in failed["state"]["message"]
    assert prefect.stages(failed) == {}
    assert not os.path.exists(prefect.home / "logs" / "mistake")


@pytest.fixture
def at_home(prefect: Prefect, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store's location. This process plans as one on the cluster's host would."""
    for name, value in cluster.settings(prefect.home, prefect.cluster.port).items():
        monkeypatch.setenv(name, value)
    return str(prefect.home / "store")


def plan(store: str, **changes: object) -> dict[str, StageOutlook]:
    """What will happen to each stage of the run's recipe with these changes."""
    changed = OVERRIDES | {name.replace("__", "."): value for name, value in changes.items()}
    return {made.label: made for made in outlook(load_recipe("tiny", changed), RUN, store)}


def test_a_change_reruns_dependent_stages_only(at_home: str, finished: dict[str, Any]) -> None:
    assert {made.state for made in plan(at_home).values()} == {"cached"}
    changed = plan(at_home, rl__optimizer__learning_rate=1e-3)
    assert [made.state for made in changed.values()] == ["cached"] * 3 + ["will run"] * 3
    assert changed["rl-1"].reasons == ["rl.optimizer.learning_rate: 0.0003 -> 0.001"]
    assert changed["evaluate-rl"].reasons == ["input 'checkpoint' is another"]
    more = plan(at_home, rl__rounds=2)
    assert more["rl-1"].reasons == ["rl.rounds: 1 -> 2"] and more["rl-2"].reasons == ["new in this run"]


def test_missing_inputs_and_files_are_named(prefect: Prefect, at_home: str, finished: dict[str, Any]) -> None:
    source = {"name": "own", "source": "file", "path": "/nowhere/own.jsonl"}
    planned = plan(at_home, data__evaluation=[source])
    assert planned["prepare"] == StageOutlook("prepare", "missing input", ["no file /nowhere/own.jsonl"])
    assert planned["rl-1"].state == "will run"


def test_the_command(prefect: Prefect, finished: dict[str, Any], tmp_path: Path) -> None:
    """Another seed: everything runs, and the command says why. The record is unchanged."""
    before = prefect.record(RUN)
    environment = os.environ | cluster.settings(prefect.home, prefect.cluster.port)
    command = [
        sys.executable,
        "-m",
        "flows.commands.cli",
        "plan",
        "tiny",
        "--run",
        RUN,
        "--json",
        "--set",
        "seed=5",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    stages = {made["label"]: made for made in json.loads(done.stdout)["stages"]}
    assert done.returncode == 0 and "seed" in stages["prepare"]["reasons"][-1]
    assert stages["evaluate-base"]["reasons"] == ["new in this run"]
    assert prefect.record(RUN) == before


def test_a_missing_artifact_is_made_again(prefect: Prefect, at_home: str, finished: dict[str, Any]) -> None:
    """Last with this run: it takes the checkpoint away."""
    prefect.store.remove(prefect.record(RUN).output("sft", "checkpoint").location)
    planned = plan(at_home)
    assert planned["sft"].reasons == ["its outputs are gone from the store"]
    assert planned["rl-1"].state == "will run" and planned["synthesize"].state == "cached"
