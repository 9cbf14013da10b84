"""Two evaluations side by side: paired difference, interval, sign test, traces of the same problem beside each other.

prefect deployment run compare/compare -p before=demo/sft -p after=demo/rl
prefect deployment run compare/compare -p before=demo/rl -p after=nightly/promoted-2026-11-21
"""

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.names import evaluation_of
from flows.publish import artifact_key
from flows.start import note_record
from tasks.launch import Run
from tasks.recipes import resolve_recorded
from tasks.report.spec import ReportConfig
from tasks.report.task import report
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.environment import store_uri
from tasks.shared.contract.stage import StageResult
from tasks.shared.runs.record import RunRecords


@flow(name="compare", flow_run_name="compare-{before}-{after}")
def compare(before: str, after: str, into: str = "comparisons") -> ArtifactRef:
    """Compare two evaluations in pairs: difference, interval, sign test, and a report.

    Args:
        before: an evaluation, <run>/<name>; names are base, sft, rl, promoted-<day>.
        after: the other one.
        into: name under which the report is recorded.
    """
    records = RunRecords(store_uri())
    evaluations = {name: evaluation_of(records, name) for name in (before, after)}
    if len(evaluations) < 2:
        raise ValueError(f"compare: before and after are both '{before}'; name two evaluations")
    record = records.read(after.partition("/")[0])
    recipe = resolve_recorded(record.recipe, {}, record.run, "report")
    records.begin(into, record.recipe)
    note_record(into)
    label = f"{before}-{after}".replace("/", ".")
    result = comparison(Run(into, recipe), f"{before} and {after}", evaluations, label)
    location = Store(store_uri()).describe(result.outputs["report"])
    lines = [f"# {after} against {before}", "", f"Report: `{location}`", ""]
    lines += [f"- {name}: {value:+.4f}" for name, value in result.metrics.items() if isinstance(value, float)]
    create_markdown_artifact("\n".join(lines), key=artifact_key(f"compare-{before}-{after}"))
    return result.outputs["report"]


def comparison(
    run: Run,
    title: str,
    evaluations: dict[str, ArtifactRef],
    label: str,
    nights: dict[str, ArtifactRef] | None = None,
) -> StageResult:
    """Report these evaluations in this order, each compared with every earlier one; `nights`: inputs of the stage."""
    config = ReportConfig(title=title, evaluations=tuple(evaluations))
    recipe = run.recipe.model_copy(update={"report": config})
    inputs = {f"evaluation_{name}": ref for name, ref in evaluations.items()} | (nights or {})
    named = Run(run.name, recipe, run.force, run.store)
    return report(named, inputs, label)
