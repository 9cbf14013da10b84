"""Subjects and comparisons of a night, on evaluations and records written by hand; no server."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

import flows.nightly
from flows.night_page import Tonight
from flows.nightly import SHOWN, NightFailed, _compare, _earlier, _shown_nights, nightly
from flows.tagged import Subject
from tasks.recipes import load_recipe
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.reporting.evaluated import write_evaluation
from tasks.shared.reporting.nights import significant_drops
from tasks.shared.reporting.summary import summarize
from tasks.shared.runs.record import RunRecords, StageRecord
from tasks.shared.runs.tags import Night, Nights, Tagged, Tags
from tests.artifacts import publish
from tests.unit.reporting.making import make_sample

RETOOL = {"samples_per_problem": 2, "temperature": 1.0, "max_calls": None}
TORL = RETOOL | {"temperature": 0.0, "max_calls": 1}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of the flows."""
    monkeypatch.setenv("TIRFLOW_STORE", str(tmp_path))
    return Store(str(tmp_path))


def evaluated(store: Store, right: bool, protocol: dict[str, Any]) -> ArtifactRef:
    """An evaluation of 30 problems, all or none of them solved."""
    samples = [
        make_sample([], "1", "1" if right else "2", problem_id=f"p{i}", sample=sample)
        for i in range(30)
        for sample in range(2)
    ]
    summary = {"sets": {"held_out": summarize(samples)}, "protocol": protocol}
    return publish(
        store,
        "evaluation",
        lambda path: write_evaluation(path, samples, summary, {"surroundings": {}}),
        stage="evaluate",
        config=protocol,
    )


@pytest.mark.parametrize(("protocol", "drops"), [(RETOOL, 1), (TORL, 0)])
def test_another_protocol_is_remarked_and_alerts_nobody(
    store: Store, protocol: dict[str, Any], drops: int
) -> None:
    tonight = Tonight("2026-11-21")
    before, after = evaluated(store, True, RETOOL), evaluated(store, False, protocol)
    _compare("promoted", "reference", before, after, tonight)
    assert len(significant_drops(tonight.pairs)) == drops
    if not drops:
        (remark,) = tonight.remarks
        assert "its reference was taken under another protocol (max_calls None and 1, temp" in remark


def finished(stage: str, *kinds: str) -> StageRecord:
    """A stage that made an artifact of each kind."""
    outputs = {kind: a_ref(kind) for kind in kinds}
    return StageRecord(stage=stage, inputs={}, outputs=outputs, metrics={}, seconds=1.0, finished="")


def a_ref(kind: str, number: int = 0) -> ArtifactRef:
    """A reference to a missing artifact."""
    return ArtifactRef(kind, f"{number:064x}", f"{kind}/{number:016x}-00000000")


@pytest.fixture
def some_unreadable(store: Store) -> None:
    """A readable run among three unreadable subjects: two runs and a tag."""
    records, recipe = RunRecords(store.root), load_recipe("tiny").model_dump(mode="json")
    of_old = recipe | {"evaluate": recipe["evaluate"] | {"no_more": 1}}
    for run, resolved in {"damaged": recipe, "good": recipe, "of_old": of_old}.items():
        records.begin(run, resolved)
        records.add(run, "prepare", finished("prepare", "checkpoint", "evaluation_sets"))
    (Path(store.root) / "runs" / "damaged.json").write_text("{")
    position = Tagged(
        run="deleted",
        checkpoint=a_ref("checkpoint"),
        evaluation_sets=a_ref("evaluation_sets"),
        evaluation=a_ref("evaluation"),
        reason="",
    )
    Tags(store.root).move("orphan", position)


@pytest.mark.parametrize("runs", [None, ["damaged", "good", "of_old"]])
def test_unreadable_subjects_do_not_stop_the_night(
    some_unreadable: None, runs: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated_now, published = list[str](), list[Tonight]()

    def evaluate(subject: Subject, *_: Any) -> None:
        evaluated_now.append(subject.name)
        raise ValueError("its sets are of another kind")

    monkeypatch.setattr(flows.nightly, "_evaluate", evaluate)
    monkeypatch.setattr(flows.nightly, "publish_night", lambda _, tonight, *__: published.append(tonight))
    with pytest.raises(NightFailed):
        nightly.fn(runs)
    assert evaluated_now == ["latest.good"]
    (tonight,) = published
    assert sorted(failure.partition(": ")[0] for failure in tonight.failures) == [
        "latest.damaged",
        "latest.good",
        "latest.of_old",
        "orphan",
    ]
    assert any("key 'evaluate.no_more' is no more" in failure for failure in tonight.failures)


def test_the_first_night_stays_the_reference(store: Store) -> None:
    every = [a_ref("evaluation", number) for number in range(100)]
    every[0], every[-2] = evaluated(store, True, RETOOL), evaluated(store, False, RETOOL)
    first_day = date(2026, 1, 1)
    for number, evaluation in enumerate(every):
        day = (first_day + timedelta(days=number)).isoformat()
        night = Night(day=day, checkpoint=a_ref("checkpoint"), evaluation=evaluation)
        Nights(store.root).add("promoted", night)
    subject = Subject("promoted", load_recipe("tiny"), a_ref("checkpoint"), a_ref("evaluation_sets"), None)
    found = _earlier(subject, Tonight(day))
    assert found == {"last night": every[-2], "reference": every[0]}
    assert len(_shown_nights(Tonight(day, {"promoted": every[-1]}))["promoted"]) == SHOWN
