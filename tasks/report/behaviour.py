"""Behaviour in the report: every metric of ReTool and ToRL as a table, over checkpoints and over RL steps.

Dashed lines show the papers' values where they exist (`data/papers.toml`).
"""

import math
from collections.abc import Sequence

from markupsafe import Markup

from data.papers import Papers
from tasks.report.inputs import EvaluationInput, summary_columns
from tasks.report.page import Table
from tasks.report.rollouts import RlStep
from tasks.report.scores import TONES, percent
from tasks.shared.reporting.charts import Line, curve, or_gap

MEASURES: tuple[tuple[str, str, bool], ...] = (  # field, label, as per cent
    ("response_tokens", "response length, tokens", False),
    ("code_ratio", "code ratio: responses with a code block", True),
    ("executed_code_ratio", "effective code ratio: code really executed", True),
    ("executed_before_answer_ratio", "effective code ratio: executed before the answer", True),
    ("code_lines", "code lines a response", False),
    ("calls_per_sample", "calls a response", False),
    ("num_correct_code_runs", "correct code runs", False),
    ("pass_ratio", "pass ratio: blocks that ran to their end", True),
    ("last_block_pass_right", "last block ran, right answers", True),
    ("last_block_pass_wrong", "last block ran, wrong answers", True),
    ("first_code_position", "position of the first code", True),
    ("self_correction", "self-correction after a failed block", True),
    ("truncated_ratio", "out of tokens", True),
    ("num_unrecognised", "unrecognised blocks", False),
    ("num_self_written", "self-written feedback", False),
    ("num_notices", "notices: blocks told that they are not whole", False),
)


def checkpoint_curves(evaluations: Sequence[EvaluationInput], papers: Papers) -> list[Markup]:
    """Draw each set's accuracy and every metric, a line for each set, over checkpoints. No chart for a single one."""
    if len(evaluations) < 2:
        return []
    names = [evaluation.checkpoint for evaluation in evaluations]
    sets = list(dict.fromkeys(name for e in evaluations for name in e.summary["sets"]))
    scores = {name: [e.summary["sets"].get(name, {}) for e in evaluations] for name in sets}
    tones = {name: (number + 1) % TONES for number, name in enumerate(sets)}
    charts = []
    for name in sets:
        low, high = zip(*(score.get("interval", (math.nan, math.nan)) for score in scores[name]), strict=True)
        values = [or_gap(score.get("accuracy")) for score in scores[name]]
        line = Line("", range(len(names)), values, low, high, tones[name])
        references = papers.accuracy.get(name, {})
        charts.append(curve(f"Accuracy on {name}", [line], "checkpoint", references, True, x_names=names))
    for field, label, share in MEASURES:
        lines = []
        for name in sets:
            values = [or_gap(score.get("behaviour", {}).get(field)) for score in scores[name]]
            lines.append(Line(name, range(len(names)), values, tone=tones[name]))
        references = papers.lines(field, lines[0].ys[0])
        charts.append(curve(_title(label), lines, "checkpoint", references, share, x_names=names))
    return charts


def step_curves(steps: Sequence[RlStep], rounds: Sequence[int], papers: Papers) -> list[Markup]:
    """Draw reward, accuracy and every metric over RL steps. `rounds` has the last step of each round."""
    numbers, ends = [step.step for step in steps], [float(end) for end in rounds[:-1]]

    def chart(title: str, values: list[float], share: bool, references: dict[str, float]) -> Markup:
        return curve(title, [Line("", numbers, values, tone=2)], "step", references, share, ends)

    charts = [
        chart("Mean reward", [step.reward for step in steps], False, {}),
        chart("Accuracy on training problems", [step.accuracy for step in steps], True, {}),
    ]
    for field, label, share in MEASURES:
        values = [or_gap(getattr(step.behaviour, field)) for step in steps]
        charts.append(chart(_title(label), values, share, papers.lines(field, values[0])))
    return charts


def _title(label: str) -> str:
    return label[0].upper() + label[1:]


def behaviour_tables(evaluations: Sequence[EvaluationInput], papers: Papers) -> list[Table]:
    """Return ReTool's and ToRL's metrics and the purposes of code: one column for each checkpoint and set."""
    columns = summary_columns(evaluations)
    rows = []
    for field, label, share in MEASURES:
        cells = [_measure(values["behaviour"].get(field), share) for values in columns.values()]
        rows.append([label, *cells, papers.reported(field)])
    numeric = frozenset(range(1, len(columns) + 1))
    tables = [Table("Behaviour", ("metric", *columns, "in the papers"), rows, numeric)]
    purposes = [values["purposes"] for values in columns.values()]
    kinds = sorted(set().union(*purposes))
    if kinds:
        totals = [max(1, sum(counts.values())) for counts in purposes]
        shares = [
            [kind, *(percent(n.get(kind, 0) / total) for n, total in zip(purposes, totals, strict=True))]
            for kind in kinds
        ]
        note = "Share of executed blocks, by a classifier over the syntax tree and the sentence before the block."
        tables.append(Table("Code purpose", ("purpose", *columns), shares, numeric, note))
    return tables


def _measure(value: float | None, share: bool) -> str:
    if value is None or share:
        return percent(value)
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.2f}"
