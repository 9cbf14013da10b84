"""The pipeline on a real server with real stages: killed, run again, stages by themselves, forced, scheduled.

One run is carried through the tests of this file in order: each takes up where the one before it left the store.
"""

import os
import shutil
import signal
from pathlib import Path

import pandas
import pytest

from tasks.shared.artifacts.lineage import lineage
from tests.flows.conftest import Prefect, as_json, small, until

RUN = "drill"
# Long enough to be killed in the middle; the same recipe is run again.
OVERRIDES = small(**{"sft.max_steps": 40, "sft.epochs": 50})


@pytest.fixture(scope="module")
def killed(prefect: Prefect) -> int:
    """Run the pipeline and kill the SFT process in mid-run; the last step that SFT had reported."""
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


def test_the_next_run_reuses_what_finished_and_resumes_what_was_killed(prefect: Prefect, killed: int) -> None:
    again = prefect.run("train/tiny", run=RUN, overrides=OVERRIDES)
    states = prefect.stages(again)
    assert {states["prepare"], states["synthesize"]} == {"Cached"}
    assert {states[label] for label in ("sft", "rl-1", "evaluate-rl", "report")} == {"Completed"}
    assert [prefect.executions(RUN, label) for label in ("prepare", "synthesize", "sft", "rl-1")] == [
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


def test_a_finished_pipeline_run_again_executes_nothing(prefect: Prefect, killed: int) -> None:
    before = prefect.record(RUN)
    again = prefect.run("train/tiny", run=RUN, overrides=OVERRIDES)
    assert set(prefect.stages(again).values()) == {"Cached"}
    assert {k: s.outputs for k, s in prefect.record(RUN).stages.items()} == {
        k: s.outputs for k, s in before.stages.items()
    }


def test_a_score_is_walked_back_to_the_problems(prefect: Prefect, killed: int) -> None:
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


def test_people_find_scores_and_places_in_the_server(prefect: Prefect, killed: int) -> None:
    artifacts = {artifact["key"]: artifact for artifact in prefect.filter("artifacts", {})}
    assert artifacts[f"{RUN}-scores"]["type"] == "table"
    assert "report.html" in artifacts[f"{RUN}-run"]["data"]
    assert artifacts[f"{RUN}-sft"]["type"] == "progress"


def test_one_stage_by_its_deployment_with_changed_parameters(prefect: Prefect, killed: int) -> None:
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
        ("synthesize/local", {}, "synthesize"),
        ("sft/local", {}, "sft"),
        ("rl/local", {"number": 1}, "rl-1"),
        ("evaluate/local", {"checkpoint": "rl"}, "evaluate-rl"),
    ],
)
def test_a_stage_by_itself_takes_the_runs_own_inputs(
    prefect: Prefect, killed: int, deployment: str, parameters: dict[str, object], label: str
) -> None:
    before = prefect.record(RUN)
    assert prefect.stages(prefect.run(deployment, run=RUN, **parameters)) == {label: "Cached"}
    assert prefect.record(RUN).stages[label].outputs == before.stages[label].outputs


def test_force_executes_what_was_done_and_gives_the_same(prefect: Prefect, killed: int) -> None:
    before = prefect.record(RUN).stages["prepare"].outputs
    prefect.run("prepare/local", run=RUN)
    assert prefect.executions(RUN, "prepare") == 1
    prefect.run("prepare/local", run=RUN, force=True)
    assert prefect.executions(RUN, "prepare") == 2
    assert prefect.record(RUN).stages["prepare"].outputs == before


def test_an_artifact_that_was_deleted_is_made_again(prefect: Prefect, killed: int) -> None:
    traces = prefect.record(RUN).output("synthesize", "traces")
    shutil.rmtree(prefect.store.fetch(traces))
    again = prefect.run("train/tiny", run=RUN, overrides=OVERRIDES)
    assert prefect.executions(RUN, "synthesize") == 2
    assert prefect.executions(RUN, "sft") == 2
    assert prefect.stages(again)["sft"] == "Cached"
    assert prefect.record(RUN).output("synthesize", "traces") == traces
    assert prefect.store.fetch(traces).is_dir()


def test_problem_files_are_evaluated_through_the_same_deployment(
    prefect: Prefect, killed: int, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"problem": "What is 2 plus 3?", "answer": 5}\n{"problem": "What is 4 times 3?", "answer": "12"}\n'
    )
    prefect.run("evaluate/local", run=RUN, checkpoint="sft", problems=[str(path)], into="mine")
    record = prefect.record("mine")
    assert record.stages["evaluate-sft"].metrics["mine/problems"] == 2
    samples = pandas.read_parquet(
        prefect.store.fetch(record.output("evaluate-sft", "evaluation")) / "samples.parquet"
    )
    assert set(samples["answer"]) == {"5", "12"}


def test_a_schedule_by_rounds_changes_what_each_round_may_do(prefect: Prefect, killed: int) -> None:
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


def test_the_nightly_evaluation_has_runs_scheduled(prefect: Prefect, killed: int) -> None:
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
