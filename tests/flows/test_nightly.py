"""Nights, promotion and comparison on a real server: a drop fails the night and fires a webhook by an automation.

The checkpoint is an untrained tiny model, which is really evaluated. Its earlier good night is written by hand.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows.names import evaluation_of
from flows.server import cluster
from flows.server.deployments import ROOT
from flows.start import RECORD
from tasks.recipes import load_recipe
from tasks.shared.artifacts import ArtifactRef, Provenance
from tasks.shared.reporting.evaluated import write_evaluation
from tasks.shared.reporting.summary import summarize
from tasks.shared.runs.record import RunRecords, StageRecord
from tasks.shared.runs.tags import Night, Nights, Tags
from tests.artifacts import publish
from tests.flows.conftest import Prefect, small, until
from tests.integration.evaluation_world import fill_sets, tiny_checkpoint
from tests.loopback import Handler, serve_http
from tests.unit.reporting.making import make_sample

RUN, PROBLEMS = "watched", 8
SUBJECT = f"latest.{RUN}"


@dataclass
class Receiver:
    """A local HTTP server that records request bodies."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """The target of the automation's webhook."""
    received = Receiver()

    class Hook(Handler):
        def do_POST(self) -> None:
            received.bodies.append(json.loads(self.body()))
            self.reply(204)

    with serve_http(Hook) as address:
        received.url = f"{address}/hook"
        yield received


@dataclass(frozen=True)
class Watched:
    """The artifacts of the run `watched`: an untrained checkpoint and problems."""

    checkpoint: ArtifactRef
    evaluation_sets: ArtifactRef


@pytest.fixture(scope="module")
def watched(prefect: Prefect) -> Watched:
    """The run as `prepare` would have left it, and an old night in which every answer was right."""
    store, uri = prefect.store, str(prefect.home / "store")
    checkpoint = publish(store, "checkpoint", tiny_checkpoint())
    made = Watched(checkpoint, publish(store, "evaluation_sets", _fill_sets))
    recipe = load_recipe("tiny", small()).model_dump(mode="json")
    outputs = {"checkpoint": made.checkpoint, "evaluation_sets": made.evaluation_sets}
    prepared = StageRecord(stage="prepare", inputs={}, outputs=outputs, metrics={}, seconds=1.0, finished="")
    records = RunRecords(uri)
    records.begin(RUN, recipe)
    records.add(RUN, "prepare", prepared)
    good = Night(day="2026-11-01", checkpoint=made.checkpoint, evaluation=_all_right(prefect, made))
    Nights(uri).add(SUBJECT, good)
    return made


def _fill_sets(directory: Path) -> None:
    sums = [(f"p{i}", f"What is {i} plus {i}?", str(2 * i)) for i in range(PROBLEMS)]
    fill_sets(directory, {"held_out": sums})


def _all_right(prefect: Prefect, made: Watched) -> ArtifactRef:
    """An evaluation of this checkpoint in which every answer was right."""
    samples = [
        make_sample([], str(2 * i), str(2 * i), problem_id=f"p{i}", problem=f"What is {i} plus {i}?")
        for i in range(PROBLEMS)
    ]
    summary = {"sets": {"held_out": summarize(samples)}, "allow_unsafe": False}
    inputs = {"checkpoint": made.checkpoint, "evaluation_sets": made.evaluation_sets}
    metrics = {"held_out/accuracy": 1.0, "held_out/low": 0.63, "held_out/high": 1.0}
    with prefect.store.staging("evaluation") as directory:
        write_evaluation(directory, samples, summary, {"sampling_seconds": 1.0, "surroundings": {}})
        return prefect.store.publish(
            "evaluation", directory, Provenance("evaluate", {"by": "hand"}, 5, inputs), metrics
        )


def artifact(prefect: Prefect, key: str) -> dict[str, Any]:
    """The newest version of a Prefect artifact."""
    body = {"artifacts": {"key": {"any_": [key]}}, "sort": "UPDATED_DESC", "limit": 1}
    return prefect.filter("artifacts", body)[0]


@dataclass(frozen=True)
class Nightly:
    """A nightly flow run that has ended, and the artifacts that it made."""

    run: dict[str, Any]
    table: str
    trend: str
    chart: str


def nightly(prefect: Prefect, **parameters: Any) -> Nightly:
    run = prefect.wait(prefect.start("nightly/nightly", **parameters))
    table, trend, chart = (artifact(prefect, key) for key in ("nightly", "nightly-trend", "nightly-held-out"))
    return Nightly(run, table["data"], trend["data"], chart["type"])


@pytest.fixture(scope="module")
def drop(prefect: Prefect, watched: Watched, receiver: Receiver) -> Nightly:
    """The night after the good one, with a webhook for alerts."""
    environment = os.environ | cluster.settings(prefect.home, prefect.cluster.port)
    for url in ("http://127.0.0.1:9/nobody", receiver.url):  # the second call changes the existing automation
        command = [sys.executable, "-m", "flows.alerts", url]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
    assert len(prefect.filter("automations", {})) == 1
    return nightly(prefect, runs=[RUN], day="2026-11-02")


@pytest.fixture(scope="module")
def promoted(prefect: Prefect, watched: Watched) -> dict[str, Any]:
    """The run that sets the tag `promoted`."""
    return prefect.run("promote/promote", run=RUN)


@pytest.fixture(scope="module")
def quiet(prefect: Prefect, promoted: dict[str, Any]) -> Nightly:
    """A night of the promoted checkpoint."""
    return nightly(prefect, runs=[], day="2026-11-03")


def test_a_drop_fails_the_night_and_reaches_the_webhook(drop: Nightly, receiver: Receiver) -> None:
    assert drop.run["state_type"] == "FAILED"
    assert f"{SUBJECT} on held_out fell by 100.0 points against last night" in drop.run["state"]["message"]
    until(lambda: bool(receiver.bodies))
    (body,) = receiver.bodies
    assert body["text"].startswith(f"tirflow: {SUBJECT} on held_out fell by 100.0 points")
    assert body["event"]["comparison"]["worse"] == PROBLEMS and body["event"]["run"] == drop.run["name"]
    report = Path(body["event"]["report"]).read_text()
    assert "Accuracy on held_out by night" in report and "tonight \u2212 last night" in report
    (row,) = json.loads(drop.table)
    assert row["accuracy"] == 0.0 and "significant drop" in row["against last night"]
    assert "data:image/svg+xml;base64," in drop.trend and drop.chart == "image"


def test_a_promoted_checkpoint_raises_no_alert(
    prefect: Prefect, watched: Watched, promoted: dict[str, Any], quiet: Nightly
) -> None:
    assert set(prefect.stages(promoted)) == {"evaluate-base"}  # no earlier night to compare with
    held = Tags(str(prefect.home / "store")).current("promoted")
    assert held is not None and held.checkpoint == watched.checkpoint
    assert quiet.run["state_type"] == "COMPLETED"
    assert prefect.stages(quiet.run) == {
        "evaluate-promoted-2026-11-03": "Completed",
        "report-promoted": "Completed",
    }
    (noted,) = Nights(str(prefect.home / "store")).of("promoted")
    first, second = (
        json.loads((prefect.store.fetch(ref) / "summary.json").read_text())["sets"]["held_out"]
        for ref in (held.evaluation, noted.evaluation)
    )
    assert first["samples_digest"] == second["samples_digest"]
    assert "No significant drop" in quiet.trend and "what changed" not in quiet.trend


def test_the_gate_keeps_the_tag(prefect: Prefect, promoted: dict[str, Any]) -> None:
    """The checkpoint against itself: it is not 90 points better."""
    before = Tags(str(prefect.home / "store")).history("promoted")
    ended = prefect.wait(prefect.start("promote/promote", run=RUN, threshold=0.9))
    assert ended["state_type"] == "FAILED"
    assert "tag 'promoted' stays where it is: held_out refused" in ended["state"]["message"]
    assert Tags(str(prefect.home / "store")).history("promoted") == before


def test_two_evaluations_are_compared(prefect: Prefect, drop: Nightly, quiet: Nightly) -> None:
    first, second = f"nightly/{SUBJECT}-2026-11-02", "nightly/promoted-2026-11-03"
    ran = prefect.run("compare/compare", before=first, after=second)
    assert ran["labels"][RECORD] == "comparisons"
    record = prefect.record("comparisons")
    (stage,) = record.stages.values()
    assert stage.metrics[f"held_out/{second}-{first}"] == 0.0
    with pytest.raises(ValueError, match=f"run '{RUN}' has .*base.*; write {RUN}/<name>"):
        evaluation_of(RunRecords(str(prefect.home / "store")), f"{RUN}/sft")
