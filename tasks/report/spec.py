"""Stage `report`: one HTML file of a whole run."""

from tasks.shared.config import EvaluateConfig, SandboxConfig, Section, StageConfig, TracesConfig
from tasks.shared.contract.spec import StageSpec


class ReportConfig(Section):
    """What a report is called, and the order of its evaluations: each is compared with every earlier one."""

    title: str = ""  # empty: the run's name
    evaluations: tuple[str, ...] = ("base", "sft", "rl")  # inputs evaluation_<name>; absent ones are left out
    notes: tuple[str, ...] = ()  # shown at its head, as why the run stopped is


class ReportStage(StageConfig):
    """What `report` depends on besides its inputs: what was run, for the headline."""

    traces: TracesConfig
    sandbox: SandboxConfig
    evaluate: EvaluateConfig
    report: ReportConfig = ReportConfig()


REPORT = StageSpec(
    name="report",
    config=ReportStage,
    inputs={
        "evaluation_*": "evaluation",
        "night_*": "evaluation",
        "sft": "checkpoint",
        "traces": "traces",
        "rollouts_*": "rollouts",
    },
    outputs={"report": "report"},
    runs_code=False,
    secrets=(),
    network=lambda _: False,
    engine=lambda _: "",
    vllm_image="",
)
