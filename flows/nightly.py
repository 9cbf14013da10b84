"""Every night, evaluates each tagged checkpoint again, compares it with its last night and reference, shows the trend.

    prefect deployment run nightly/nightly                          # now; its schedule is in prefect.yaml
    prefect deployment schedule pause nightly/nightly <id>          # ls, pause, resume, clear

A significant drop is emitted as a Prefect event (`flows/alerts.py` sends it on). It also fails the nightly run, because
a busy SQLite may lose an event. The seed is the same every night, so an unchanged checkpoint gives identical samples,
or the report says what changed; `fresh_samples` draws new ones instead.
"""

from datetime import UTC, date, datetime

from prefect import flow
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.logging import get_run_logger

from flows.compare import comparison
from flows.night_page import Tonight, publish_night
from flows.start import named_after, note_record
from flows.tagged import Subject, subjects
from tasks.evaluate.task import evaluate
from tasks.launch import Run
from tasks.launch.backends.attempt import StageFailed
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.environment import store_uri
from tasks.shared.reporting.evaluated import (
    protocol_difference,
    read_evaluated,
    shared_sets,
    unexpected_change,
)
from tasks.shared.reporting.nights import Drop, regression_event, significant_drops
from tasks.shared.runs.record import RunRecords
from tasks.shared.runs.tags import Night, Nights

RECORD = "nightly"  # the run that records the nights' evaluations and reports
SHOWN = 60  # nights in a trend


class NightFailed(RuntimeError):
    """A checkpoint got worse, or could not be evaluated."""


@flow(name="nightly", flow_run_name=named_after("day"))
def nightly(
    runs: list[str] | None = None,
    days: int = 7,
    day: str = "",
    fresh_samples: bool = False,
    force: bool = False,
) -> dict[str, ArtifactRef]:
    """Evaluate every tag and the latest checkpoint of recent runs, and compare with earlier nights.

    Fails with NightFailed, after everything is published, on a significant drop or a failed evaluation.

    Args:
        runs: runs whose latest checkpoint is evaluated; by default those that changed recently.
        days: how many days count as recent.
        day: the ISO date of the night; today by default.
        fresh_samples: draw other samples than last night.
        force: evaluate again although this night has an evaluation.
    """
    tonight = Tonight(_day(day))
    note_record(RECORD)
    found, tonight.failures = subjects(store_uri(), runs, days, tonight.day)
    if not found and not tonight.failures:
        raise ValueError(
            f"nightly: no tag and no recent run in {store_uri()}; train one: tirflow run train/tiny"
        )
    for subject in found:
        try:
            _evaluate(subject, tonight, fresh_samples, force)
        except (StageFailed, ValueError) as error:  # the others are evaluated all the same
            tonight.failures.append(f"{subject.name}: {error}")
    drops = significant_drops(tonight.pairs)
    publish_night(Store(store_uri()), tonight, _shown_nights(tonight), drops)
    _alert(drops, tonight)
    return tonight.evaluations


def _evaluate(subject: Subject, tonight: Tonight, fresh_samples: bool, force: bool) -> None:
    """Evaluate one checkpoint, record the night, compare, write its report."""
    nights, records = Nights(store_uri()), RunRecords(store_uri())
    records.begin(RECORD, subject.recipe.model_dump(mode="json"))
    run = Run(RECORD, subject.recipe, force=True)
    done = {(night.day, night.checkpoint): night.evaluation for night in nights.of(subject.name)}
    evaluation = done.get((tonight.day, subject.checkpoint))
    if evaluation is None or force:
        seed_label = f"nightly/{tonight.day}" if fresh_samples else "evaluate"
        name = f"{subject.name}-{tonight.day}"
        evaluation = evaluate(run, name, subject.checkpoint, subject.evaluation_sets, seed_label)
        nights.add(subject.name, Night(day=tonight.day, checkpoint=subject.checkpoint, evaluation=evaluation))
    tonight.evaluations[subject.name] = evaluation
    earlier = _earlier(subject, tonight)
    for against, ref in earlier.items():
        _compare(subject.name, against, ref, evaluation, tonight)
    shown: dict[str, ArtifactRef] = {
        name: earlier[name] for name in ("reference", "last night") if name in earlier
    }
    past = _until(subject.name, tonight.day)[-SHOWN:]
    result = comparison(
        Run(RECORD, subject.recipe),
        f"{subject.name}, night of {tonight.day}",
        {**shown, "tonight": evaluation},
        subject.name,
        {f"night_{night.day}_{subject.name}": night.evaluation for night in past},
    )
    tonight.reports[subject.name] = f"{Store(run.store).describe(result.outputs['report'])}/report.html"


def _earlier(subject: Subject, tonight: Tonight) -> dict[str, ArtifactRef]:
    """The evaluations in the store to compare with: the subject's last night, and its reference.

    The reference is the evaluation recorded when it was tagged or trained, or else its first night.
    """
    past = _until(subject.name, tonight.day)[:-1]
    found = {"last night": past[-1].evaluation} if past else {}
    reference = subject.reference or (past[0].evaluation if past else None)
    if reference is not None and reference not in found.values():
        found["reference"] = reference
    store = Store(store_uri())
    for against, ref in list(found.items()):
        if not store.exists(ref):
            tonight.remarks.append(
                f"{subject.name}: its {against} is gone from the store; not compared with it"
            )
            del found[against]
    return found


def _until(subject: str, day: str) -> list[Night]:
    return [night for night in Nights(store_uri()).of(subject) if night.day <= day]


def _compare(name: str, against: str, before: ArtifactRef, after: ArtifactRef, tonight: Tonight) -> None:
    """Add the pairs of every set, and a remark if they cannot be compared or changed without a cause in the model."""
    store = Store(store_uri())
    first, second = read_evaluated(store, before), read_evaluated(store, after)
    differing = protocol_difference(first.summary, second.summary)
    shared = [] if differing else shared_sets(first, second)
    if not shared:
        difference = f"under another protocol ({differing})" if differing else "on other problems"
        tonight.remarks.append(f"{name}: its {against} was taken {difference}; not compared with it")
    tonight.pairs += [(name, set_name, against, old, new) for set_name, old, new in shared]
    changed = unexpected_change(first, second)
    if changed is not None:
        tonight.remarks.append(f"{name} against its {against}: {changed}")
        get_run_logger().warning("%s against its %s: %s", name, against, changed)


def _shown_nights(tonight: Tonight) -> dict[str, list[Night]]:
    return {name: _until(name, tonight.day)[-SHOWN:] for name in tonight.evaluations}


def _alert(drops: list[Drop], tonight: Tonight) -> None:
    """One event a drop; NightFailed if there was a drop or a failure."""
    context = FlowRunContext.get()
    run = context.flow_run.name if context and context.flow_run else RECORD
    for drop in drops:
        get_run_logger().error("%s", drop.message)
        report = tonight.reports.get(drop.tag, "none, it failed")
        emit_event(**regression_event(drop, run, report))
    wrong = [drop.message for drop in drops] + tonight.failures
    if wrong:
        raise NightFailed("; ".join(wrong))


def _day(day: str) -> str:
    """The ISO date; ValueError for any other text."""
    try:
        return date.fromisoformat(day).isoformat() if day else datetime.now(UTC).date().isoformat()
    except ValueError:
        raise ValueError(
            f"nightly: day = '{day}' is no ISO date; write 2026-11-21 or leave it empty"
        ) from None
