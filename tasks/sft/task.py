"""What Prefect sees of `sft`: a checkpoint tuned on traces."""

from tasks.launch import Run, run_stage
from tasks.shared.artifacts import ArtifactRef


def sft(run: Run, checkpoint: ArtifactRef, traces: ArtifactRef) -> ArtifactRef:
    """Fine-tune `checkpoint` on `traces`; the tuned checkpoint."""
    return run_stage(run, "sft", {"checkpoint": checkpoint, "traces": traces}).outputs["checkpoint"]
