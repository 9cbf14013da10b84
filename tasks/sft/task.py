"""What Prefect sees of `sft`: a checkpoint tuned on traces."""

from tasks.launch import Run, run_stage
from tasks.sft.spec import SFT
from tasks.shared.artifacts import ArtifactRef


def sft(run: Run, checkpoint: ArtifactRef, traces: ArtifactRef, label: str = "") -> ArtifactRef:
    """Fine-tune `checkpoint` on `traces`; the tuned checkpoint. `label` tells this use apart from the cold start."""
    return run_stage(run, SFT, {"checkpoint": checkpoint, "traces": traces}, label).outputs["checkpoint"]
