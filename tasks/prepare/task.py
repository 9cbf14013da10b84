"""What Prefect sees of `prepare`: base model and problem sets of the recipe, as artifacts."""

from dataclasses import dataclass
from pathlib import Path

from tasks.launch import Run, run_stage
from tasks.prepare.spec import PREPARE
from tasks.shared.artifacts import ArtifactRef


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run starts from."""

    checkpoint: ArtifactRef  # the base model
    problems: ArtifactRef  # for training, clear of the evaluation sets
    evaluation_sets: ArtifactRef


def prepare(run: Run) -> Prepared:
    """Resolve, check and decontaminate."""
    data, model = run.recipe.data, run.recipe.model
    paths = [source.path for source in (*data.train, *data.evaluation)] + [model.path]
    outputs = run_stage(run, PREPARE, {}, files=tuple(Path(path) for path in paths if path)).outputs
    return Prepared(outputs["checkpoint"], outputs["problems"], outputs["evaluation_sets"])
