"""Which checkpoints have a name that outlives their run: every tag, and the latest of each run."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.config import Recipe
from tasks.shared.recipes import resolve_recorded
from tasks.shared.runs import RunRecord, RunRecords
from tasks.shared.tags import LATEST, Tags


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint that is evaluated every night."""

    name: str  # the tag, or latest.<run>
    recipe: Recipe  # how it is evaluated
    checkpoint: ArtifactRef
    evaluation_sets: ArtifactRef
    reference: ArtifactRef | None  # its evaluation when it was tagged or trained


def subjects(store: str, runs: Sequence[str] | None, days: int, today: str) -> list[Subject]:
    """Every tag, then the latest checkpoint of `runs`, or of the runs that changed in the last `days` days."""
    records, tags = RunRecords(store), Tags(store)
    found = []
    for tag in tags.names():
        held = tags.current(tag)
        assert held is not None, tag
        recipe = recipe_of(records.read(held.run))
        found.append(Subject(tag, recipe, held.checkpoint, held.evaluation_sets, held.evaluation))
    since = (date.fromisoformat(today) - timedelta(days=days)).isoformat()
    for run in records.names() if runs is None else runs:
        record = records.read(run)
        label = latest_label(record)
        if label is None:
            if runs is not None:
                raise ValueError(
                    f"run '{run}' has no checkpoint yet; finished: {', '.join(record.stages) or 'none'}"
                )
            continue
        if runs is not None or record.updated >= since:
            found.append(_latest(record, label))
    return found


def latest_label(record: RunRecord) -> str | None:
    """The stage that made the run's newest checkpoint: its last RL round, SFT, or `prepare`; None if none has."""
    labels = ([f"rl-{record.last_round}"] if record.last_round else []) + ["sft", "prepare"]
    return next((label for label in labels if label in record.stages), None)


def recipe_of(record: RunRecord) -> Recipe:
    """The recipe that a run was made with, for an evaluation."""
    return resolve_recorded(record.recipe, {}, record.run, "evaluate")


def _latest(record: RunRecord, label: str) -> Subject:
    checkpoint, sets = record.output(label, "checkpoint"), record.output("prepare", "evaluation_sets")
    wanted = {"checkpoint": checkpoint, "evaluation_sets": sets}
    made = [stage for stage in record.stages.values() if stage.stage == "evaluate" and stage.inputs == wanted]
    reference = made[0].outputs["evaluation"] if made else None
    return Subject(f"{LATEST}{record.run}", recipe_of(record), checkpoint, sets, reference)
