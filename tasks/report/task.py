"""What Prefect sees of `report`: one HTML file of a whole run."""

from tasks.launch import Run, run_stage
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.stage import StageResult


def report(run: Run, inputs: dict[str, ArtifactRef]) -> StageResult:
    """Gather evaluations (`evaluation_base`, ...), `traces`, `sft` and `rollouts_<round>`, those that there are."""
    return run_stage(run, "report", inputs)
