"""What Prefect sees of `report`: one HTML file of a whole run, or of any evaluations."""

from tasks.launch import Run, run_stage
from tasks.report.spec import REPORT
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.stage import StageResult


def report(run: Run, inputs: dict[str, ArtifactRef], name: str = "") -> StageResult:
    """Gather evaluations (`evaluation_base`, ...), `traces`, `sft` and `rollouts_<round>`, as far as they exist.

    `name` tells this report apart from others of the run.
    """
    return run_stage(run, REPORT, inputs, f"report-{name}" if name else "", "report")
