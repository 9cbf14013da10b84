"""What Prefect sees of `evaluate`: one checkpoint on the evaluation sets."""

from tasks.evaluate.spec import EVALUATE
from tasks.launch import Run, run_stage
from tasks.shared.artifacts import ArtifactRef


def evaluate(
    run: Run, which: str, checkpoint: ArtifactRef, evaluation_sets: ArtifactRef, seed_label: str = "evaluate"
) -> ArtifactRef:
    """Evaluate the checkpoint called `which` (base, sft, rl).

    All checkpoints of a run are sampled from the same seed, so that they are compared in pairs; another `seed_label`
    gives fresh samples.
    """
    inputs = {"checkpoint": checkpoint, "evaluation_sets": evaluation_sets}
    return run_stage(run, EVALUATE, inputs, f"evaluate-{which}", seed_label).outputs["evaluation"]
