"""Publishes a finished run in the Prefect UI: the accuracy table, and the locations of report and data."""

import re
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.evaluate.spec import evaluations
from tasks.launch import Run
from tasks.shared.artifacts import Store
from tasks.shared.contract.stage import StageResult
from tasks.shared.runs.record import RunRecord, RunRecords

Row = dict[str, Any]


def publish_report(run: Run, result: StageResult) -> None:
    """Publish the table of scores, and a page with the locations of the report and every stage's artifacts."""
    key = artifact_key(run.name)
    record = RunRecords(run.store).read(run.name)
    store = Store(run.store)
    lines = [f"# Run {run.name}", "", f"Report: `{store.describe(result.outputs['report'])}/report.html`", ""]
    lines += ["| stage | artifact | place | seconds |", "|---|---|---|---|"]
    for label, stage in record.stages.items():
        for name, ref in stage.outputs.items():
            lines.append(f"| {label} | {name} | `{store.describe(ref)}` | {stage.seconds:.1f} |")
    create_markdown_artifact("\n".join(lines), key=f"{key}-run", description=f"Artifacts of run {run.name}")
    if rows := scores_of(record):  # last: Prefect shows the newest first
        create_table_artifact(rows, key=f"{key}-scores", description=f"Scores of run {run.name}")


def scores_of(record: RunRecord) -> list[Row]:
    """A row for each finished evaluation and problem set: its headline metrics (`<set>/<metric>` in the record)."""
    rows: dict[tuple[str, str], Row] = {}
    for checkpoint, stage in evaluations(record.stages).items():
        for name, value in stage.metrics.items():
            problem_set, _, metric = name.rpartition("/")
            shown = round(value, 4) if isinstance(value, float) else value
            key = (problem_set, checkpoint)
            rows.setdefault(key, {"set": key[0], "checkpoint": key[1]})[metric] = shown
    return [rows[key] for key in sorted(rows, key=lambda key: key[0])]


def artifact_key(name: str) -> str:
    """A Prefect artifact key (lower case, digits and dashes) from a run's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
