"""The checkpoints with a name that outlives their run: every tag, and the latest of each run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

from tasks.prepare.spec import PREPARE
from tasks.recipes import Recipe, resolve_recorded
from tasks.rl.spec import last_round
from tasks.sft.spec import SFT
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.runs.record import RunRecord, RunRecords
from tasks.shared.runs.tags import LATEST, Tags


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint that is evaluated every night."""

    name: str  # the tag, or latest.<run>
    recipe: Recipe  # of its evaluation
    checkpoint: ArtifactRef
    evaluation_sets: ArtifactRef
    reference: ArtifactRef | None  # its evaluation when it was tagged or trained


def subjects(
    store: str, runs: Sequence[str] | None, days: int, today: str
) -> tuple[list[Subject], list[str]]:
    """Every tag, then the latest checkpoint of `runs`, or of the runs that changed in the last `days` days.

    Also returns a line for each that cannot be evaluated: a damaged record, a recipe that no longer resolves.
    """
    records, tags = RunRecords(store), Tags(store)
    since = (date.fromisoformat(today) - timedelta(days=days)).isoformat() if runs is None else ""
    readers: dict[str, Callable[[], Subject | None]] = {
        tag: partial(_tagged, records, tags, tag) for tag in tags.names()
    }
    for run in records.names() if runs is None else runs:
        readers[f"{LATEST}{run}"] = partial(_latest, records, run, since)
    found, failures = list[Subject](), list[str]()
    for name, read in readers.items():
        try:
            subject = read()
        except ValueError as error:
            failures.append(f"{name}: {error}")
        else:
            found += [subject] if subject else []
    return found, failures


def latest_label(record: RunRecord) -> str | None:
    """The stage that made the run's newest checkpoint: its last RL round, SFT, or `prepare`; None if none has."""
    labels = (label_of(record, name) for name in ("rl", "sft", "base"))
    return next((label for label in labels if label in record.stages), None)


def label_of(record: RunRecord, checkpoint: str) -> str:
    """The stage that makes the checkpoint of that name: base, sft, rl (in its last round so far) or the latest."""
    if checkpoint == "latest":
        return latest_label(record) or PREPARE.name
    return {"base": PREPARE.name, "sft": SFT.name, "rl": f"rl-{last_round(record.stages) or 1}"}[checkpoint]


def recipe_of(record: RunRecord) -> Recipe:
    """The recipe that a run was made with, for an evaluation."""
    return resolve_recorded(record.recipe, {}, record.run, "evaluate")


def _tagged(records: RunRecords, tags: Tags, tag: str) -> Subject:
    held = tags.current(tag)
    if held is None:
        raise ValueError(f"tag '{tag}' has no position; delete its document")
    recipe = recipe_of(records.read(held.run))
    return Subject(tag, recipe, held.checkpoint, held.evaluation_sets, held.evaluation)


def _latest(records: RunRecords, run: str, since: str) -> Subject | None:
    """The run's newest checkpoint. With `since`, an ISO date: None if the run is older or has none."""
    record = records.read(run)
    label = latest_label(record)
    if since and (label is None or record.updated < since):
        return None
    if label is None:
        raise ValueError(f"run '{run}' has no checkpoint yet; finished: {', '.join(record.stages) or 'none'}")
    checkpoint, sets = record.checkpoint(label), record.output("prepare", "evaluation_sets")
    inputs = {"checkpoint": checkpoint, "evaluation_sets": sets}
    made = [stage for stage in record.stages.values() if stage.stage == "evaluate" and stage.inputs == inputs]
    reference = made[0].outputs["evaluation"] if made else None
    return Subject(f"{LATEST}{run}", recipe_of(record), checkpoint, sets, reference)
