"""The `report` stage: one self-contained HTML file on a whole run, and the same numbers as summary.json.

python -m tasks.report.main request.json
"""

import json
from dataclasses import asdict
from itertools import combinations
from typing import Any

from data.papers import load_papers
from tasks.report.behaviour import behaviour_tables
from tasks.report.inputs import ReportInputs, read_inputs
from tasks.report.page import Page, Table, render
from tasks.report.scores import comparisons, set_sections
from tasks.report.sections import cost_table, curves, lineage_table, reason_table, strips
from tasks.report.spec import REPORT, ReportStage
from tasks.report.synthesis import synthesis_tables
from tasks.shared.contract.stage import StageContext, StageResult, Value, stage_main
from tasks.shared.reporting.evaluated import protocol_difference, unexpected_change

# headline metrics of training -> the steps that they count
SKIPPED = {
    "skipped_steps": "steps left out because of their gradient",
    "skipped_updates": "updates left out because of their gradient",
    "empty_steps": "steps had nothing in the loss",
}


def run(context: StageContext[ReportStage]) -> StageResult:
    """Read the inputs, render the page, publish both."""
    inputs = read_inputs(context)
    summary = summarize(inputs)
    html = render(build_page(context, inputs))
    metrics = _metrics(summary)
    with context.output("report", metrics) as output:
        (output.directory / "report.html").write_text(html, encoding="utf-8")
        (output.directory / "summary.json").write_text(json.dumps(summary, indent=1))
    return StageResult(outputs={"report": output.ref}, metrics=metrics)


def build_page(context: StageContext[ReportStage], inputs: ReportInputs) -> Page:
    """Return the page of a run."""
    evaluations = inputs.evaluations
    papers = load_papers()
    tables: list[Table] = [*behaviour_tables(evaluations, papers), reason_table(evaluations)]
    if inputs.funnel is not None:
        tables += synthesis_tables(inputs.funnel)
    tables += [cost_table(evaluations), lineage_table(inputs)]
    config = context.config
    protocol = evaluations[-1].summary.get("protocol", config.evaluate.model_dump())
    return Page(
        title=config.report.title or f"Run {context.request.run}",
        subtitle=f"{_protocol(protocol, config)}; seed {context.request.seed}",
        warnings=_warnings(config, inputs),
        sets=set_sections(evaluations),
        curves=curves(inputs, papers),
        tables=tables,
        checkpoints=[evaluation.checkpoint for evaluation in evaluations],
        strips=strips(evaluations),
        evaluations={evaluation.checkpoint: evaluation.samples for evaluation in evaluations},
        written=inputs.written,
    )


def summarize(inputs: ReportInputs) -> dict[str, Any]:
    """Return scores and paired differences as data."""
    sets: dict[str, Any] = {}
    for evaluation in inputs.evaluations:
        for name, values in evaluation.summary["sets"].items():
            content = sets.setdefault(name, {"checkpoints": {}, "differences": {}})
            content["checkpoints"][evaluation.checkpoint] = values
    for name, content in sets.items():
        present = [evaluation for evaluation in inputs.evaluations if name in evaluation.summary["sets"]]
        for before, after, result in comparisons(name, present):
            content["differences"][f"{after}-{before}"] = asdict(result) | {"significant": result.significant}
    steps = [asdict(step) for step in inputs.rl]
    for step in steps:
        step["void"] = step.pop("outages")  # the published key
    return {"sets": sets, "funnel": inputs.funnel, "rl": steps}


def _protocol(protocol: dict[str, Any], config: ReportStage) -> str:
    """Describe how the samples were taken."""
    calls = protocol.get("max_calls")
    name = f"protocol {protocol['protocol']}, " if protocol.get("protocol") else ""
    return (
        f"{name}dialect {protocol.get('dialect', config.traces.dialect)}, {protocol['samples_per_problem']} samples a "
        f"problem, temperature {protocol['temperature']:g}, top-p {protocol['top_p']:g}, "
        f"at most {config.traces.max_calls if calls is None else calls} calls"
    )


def _warnings(config: ReportStage, inputs: ReportInputs) -> list[str]:
    found = [*config.report.notes, *_skipped_steps(inputs)]
    if config.sandbox.allow_unsafe or any(e.summary["allow_unsafe"] for e in inputs.evaluations):
        found.append(
            "sandbox.allow_unsafe was set: programs that the model wrote ran WITHOUT isolation. Treat the machine, and "
            "these numbers, as what such a program could have touched."
        )
    for before, after in combinations(inputs.evaluations, 2):
        pair = f"{after.checkpoint} against {before.checkpoint}"
        differing = protocol_difference(before.summary, after.summary)
        if differing:
            found.append(
                f"{pair}: sampled under different protocols ({differing}); the difference is not the model's alone."
            )
        if before.evaluated and after.evaluated:
            changed = unexpected_change(before.evaluated, after.evaluated)
            found += [f"{pair}: {changed}"] if changed else []
    return found


def _skipped_steps(inputs: ReportInputs) -> list[str]:
    """Describe the steps that training skipped, from its published metrics."""
    return [
        f"{name.replace('_', ' ')}: {manifest.metrics[key]} {what}"
        for name, manifest in inputs.manifests.items()
        for key, what in SKIPPED.items()
        if name.startswith(("sft", "rollouts_")) and manifest.metrics.get(key)
    ]


def _metrics(summary: dict[str, Any]) -> dict[str, Value]:
    """Return the accuracy of each checkpoint and each difference with its interval, by set."""
    metrics: dict[str, Value] = {}
    for name, content in summary["sets"].items():
        for checkpoint, values in content["checkpoints"].items():
            metrics[f"{name}/{checkpoint}"] = values["accuracy"]
        for pair, result in content["differences"].items():
            interval = result["difference"]["interval"]
            metrics[f"{name}/{pair}"] = result["difference"]["value"]
            metrics[f"{name}/{pair}/low"], metrics[f"{name}/{pair}/high"] = interval["low"], interval["high"]
    return metrics


if __name__ == "__main__":
    raise SystemExit(stage_main(REPORT, run))
