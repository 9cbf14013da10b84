"""The rest of the report: curves, grades, cost, problems, provenance."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from data.papers import Papers
from tasks.report.asynchronous import asynchronous_curves
from tasks.report.behaviour import checkpoint_curves, step_curves
from tasks.report.inputs import EvaluationInput, ReportInputs, summary_columns
from tasks.report.page import Strip, Table
from tasks.report.scores import NONE
from tasks.report.synthesis import funnel_chart
from tasks.shared.reporting.charts import Line, curve
from tasks.shared.reporting.nights import trends
from tasks.shared.reporting.samples import Sample


def curves(inputs: ReportInputs, papers: Papers) -> list[tuple[str, list[Markup]]]:
    """Draw accuracy over nights, every metric over checkpoints, SFT and RL over their steps."""
    found = []
    if inputs.nights:
        charts = [curve(t.title, t.lines, t.x_label, percent=True) for t in trends(inputs.nights)]
        found.append(("Nights, 95 % intervals", charts))
    if over_checkpoints := checkpoint_curves(inputs.evaluations, papers):
        found.append(("From checkpoint to checkpoint", over_checkpoints))
    if inputs.funnel is not None:
        found.append(("Synthesis", [funnel_chart(inputs.funnel)]))
    if inputs.sft:
        steps = [row["step"] for row in inputs.sft]
        name = "training" if inputs.validation else ""
        loss = [Line(name, steps, [row["loss"] for row in inputs.sft], tone=1)]
        if inputs.validation:
            rows = inputs.validation
            loss.append(Line("held-out problems", _column(rows, "step"), _column(rows, "loss"), tone=2))
        norm = [Line("", steps, [row["grad_norm"] for row in inputs.sft], tone=1)]
        charts = [curve("Loss, nats a trained token", loss, "step"), curve("Gradient norm", norm, "step")]
        found.append(("SFT", charts))
    if inputs.evaluated:
        found.append(("Evaluation while RL trained, 95 % intervals", evaluation_curves(inputs.evaluated)))
    if inputs.rl:
        found.append(("RL, every step's rollouts", step_curves(inputs.rl, inputs.rounds, papers)))
    if inputs.ahead:
        found.append(("RL, sampler beside trainer", asynchronous_curves(inputs.ahead)))
    return found


def evaluation_curves(points: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Draw a chart for each set: accuracy over the steps at which it was sampled."""
    ends = "/accuracy"
    names = sorted({key.removesuffix(ends) for point in points for key in point if key.endswith(ends)})
    charts = []
    for name in names:
        with_set = [point for point in points if f"{name}{ends}" in point]
        values, low, high = (_column(with_set, f"{name}/{key}") for key in ("accuracy", "low", "high"))
        line = Line(name, _column(with_set, "step"), values, low, high, tone=1)
        charts.append(curve(f"Accuracy on {name}", [line], "step", percent=True))
    return charts


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows]


def reason_table(evaluations: Sequence[EvaluationInput]) -> Table:
    """Count the samples by the reason of their grade."""
    columns = {head: values["reasons"] for head, values in summary_columns(evaluations).items()}
    kinds = sorted(set().union(*columns.values()))
    rows = [
        [kind.replace("_", " "), *(str(counts.get(kind, 0)) for counts in columns.values())] for kind in kinds
    ]
    return Table("Grades", ("reason", *columns), rows, frozenset(range(1, len(columns) + 1)))


def cost_table(evaluations: Sequence[EvaluationInput]) -> Table:
    """Return tokens and seconds of each evaluation, and the variance of its scores within and between problems."""
    rows = []
    for evaluation in evaluations:
        for name, values in evaluation.summary["sets"].items():
            tool = sum(call.seconds for s in evaluation.samples if s.set == name for call in s.calls)
            sampling = evaluation.evaluated.volatile["sampling_seconds"] if evaluation.evaluated else None
            variance = values["variance"]
            rows.append(
                [
                    f"{evaluation.checkpoint}, {name}",
                    f"{values['samples']:,}",
                    f"{values['tokens']:,}",
                    f"{tool:.1f}",
                    NONE if sampling is None else f"{sampling:.1f}",
                    f"{variance['within']:.3f}",
                    f"{variance['between']:.3f}",
                ]
            )
    columns = (
        "evaluation",
        "samples",
        "tokens",
        "tool s",
        "sampling s",
        "variance within",
        "between problems",
    )
    note = (
        "Tool time is summed over calls that run side by side. Sampling time is the wall clock of the whole evaluation "
        "(all its sets), without what an earlier attempt had already taken."
    )
    return Table("Cost", columns, rows, frozenset(range(1, 7)), note)


def lineage_table(inputs: ReportInputs) -> Table:
    """List the artifacts that this report covers."""
    rows = [
        [name, manifest.kind, manifest.provenance.stage, str(manifest.provenance.seed), manifest.digest]
        for name, manifest in inputs.manifests.items()
    ]
    return Table("Lineage", ("input", "kind", "stage", "seed", "sha256"), rows, frozenset({3}))


def strips(evaluations: Sequence[EvaluationInput]) -> list[tuple[str, str, list[Strip]]]:
    """Return a heat strip for every problem and checkpoint, the hardest problem for the last checkpoint first."""
    cells: dict[tuple[str, str], list[list[Sample]]] = {}
    for number, evaluation in enumerate(evaluations):
        for sample in evaluation.samples:
            of_problem = cells.setdefault((sample.set, sample.problem_id), [[] for _ in evaluations])
            of_problem[number].append(sample)
    sets = list(dict.fromkeys(name for name, _ in cells))
    order = sorted(cells, key=lambda key: (sets.index(key[0]), _share(cells[key][-1]), key))
    return [(*key, [_strip(samples) for samples in cells[key]]) for key in order]


def _strip(samples: Sequence[Sample]) -> Strip:
    ordered = sorted(samples, key=lambda sample: sample.sample)
    letters = "".join("V" if sample.outage else "R" if sample.correct else "W" for sample in ordered)
    return Strip(letters, f"{letters.count('R')} of {len(letters)} right")


def _share(samples: Sequence[Sample]) -> float:
    return sum(sample.correct for sample in samples) / len(samples) if samples else 0.0
