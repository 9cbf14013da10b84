"""What Prefect sees of `synthesize`: verified traces of the training problems."""

from tasks.launch import Run, run_stage
from tasks.shared.artifacts import ArtifactRef


def synthesize(run: Run, problems: ArtifactRef, evaluation_sets: ArtifactRef) -> ArtifactRef:
    """Write, execute and verify traces; the evaluation sets are what they must stay clear of."""
    inputs = {"problems": problems, "evaluation_sets": evaluation_sets}
    return run_stage(run, "synthesize", inputs).outputs["traces"]
