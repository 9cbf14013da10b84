"""The rest of the report: curves of SFT and RL, funnel, behaviour, purposes, cost, problems, provenance."""

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from tasks.report.inputs import EvaluationInput, ReportInputs, RlStep
from tasks.report.scores import percent
from tasks.shared.reporting.charts import Line, curve
from tasks.shared.reporting.nights import trends
from tasks.shared.reporting.page import Strip, Table
from tasks.shared.reporting.samples import Sample

# What the papers report for their own models, as a scale to read ours by (arXiv 2504.11536, 2503.23383).
PAPERS = {
    "code_ratio": "ReTool to about 98 %; ToRL 40 to 80 %",
    "response_tokens": "ReTool 10k to 6k",
    "code_lines": "ReTool grows five times",
    "num_correct_code_runs": "ReTool 1k to 5k",
    "pass_ratio": "ToRL 76 to 84 %",
    "last_block_pass_right": "ReTool stays high",
    "last_block_pass_wrong": "ReTool falls",
    "first_code_position": "ReTool moves earlier",
}
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
)


def curves(inputs: ReportInputs) -> list[tuple[str, list[Markup]]]:
    """Accuracy over nights; SFT and RL over their steps, with the papers' values as reference lines."""
    found = []
    if inputs.nights:
        charts = [curve(t.title, t.lines, t.x_label, percent=True) for t in trends(inputs.nights)]
        found.append(("Nights, 95 % intervals", charts))
    if inputs.sft:
        steps = [row["step"] for row in inputs.sft]
        loss = [Line("", steps, [row["loss"] for row in inputs.sft], tone=1)]
        norm = [Line("", steps, [row["grad_norm"] for row in inputs.sft], tone=1)]
        charts = [curve("Loss, nats a trained token", loss, "step"), curve("Gradient norm", norm, "step")]
        found.append(("SFT", charts))
    if inputs.rl:
        found.append(("RL, every step's rollouts", _rl_charts(inputs.rl, inputs.rounds)))
    return found


def _rl_charts(steps: Sequence[RlStep], rounds: Sequence[int]) -> list[Markup]:
    numbers = [step.step for step in steps]
    ends = [float(end) for end in rounds[:-1]]

    def chart(
        title: str, field: Callable[[RlStep], float], share: bool, references: dict[str, float]
    ) -> Markup:
        line = Line("", numbers, [field(step) for step in steps], tone=2)
        return curve(title, [line], "step", references, share, ends)

    return [
        chart("Mean reward", lambda step: step.reward, False, {}),
        chart("Accuracy on training problems", lambda step: step.accuracy, True, {}),
        chart("Code ratio", lambda step: step.code_ratio, True, {"ReTool, end": 0.98, "ToRL, end": 0.8}),
        chart("Pass ratio", lambda step: step.pass_ratio, True, {"ToRL, end": 0.84}),
        chart("Response length, tokens", lambda step: step.response_tokens, False, {}),
        chart("Calls a response", lambda step: step.calls, False, {}),
    ]


def funnel_table(funnel: dict[str, Any]) -> Table:
    """What became of the traces that the teacher wrote."""
    written = max(funnel["written"], 1)
    rows = [("written", funnel["written"])]
    rows += [(f"rejected: {reason.replace('_', ' ')}", count) for reason, count in funnel["rejected"].items()]
    rows += [("accepted", funnel["accepted"]), ("accepted, with code", funnel["accepted_with_code"])]
    return Table(
        "Synthesis",
        ("traces", "number", "share"),
        [(name, f"{count:,}", percent(count / written)) for name, count in rows],
        frozenset({1, 2}),
        "Every code block of every trace was executed again and its output compared.",
    )


def behaviour_tables(evaluations: Sequence[EvaluationInput]) -> list[Table]:
    """ReTool's and ToRL's metrics and the purposes of code: one column a checkpoint and set."""
    columns = [
        (e.checkpoint, name, values) for e in evaluations for name, values in e.summary["sets"].items()
    ]
    heads = [f"{checkpoint}, {name}" for checkpoint, name, _ in columns]
    rows = []
    for field, label, share in MEASURES:
        cells = [_measure(values["behaviour"][field], share) for _, _, values in columns]
        rows.append([label, *cells, PAPERS.get(field, "")])
    numeric = frozenset(range(1, len(columns) + 1))
    tables = [Table("Behaviour", ("metric", *heads, "in the papers"), rows, numeric)]
    kinds = sorted({kind for _, _, values in columns for kind in values["purposes"]})
    if kinds:
        totals = [max(1, sum(values["purposes"].values())) for _, _, values in columns]
        shares = [
            [
                kind,
                *(
                    percent(v["purposes"].get(kind, 0) / t)
                    for (_, _, v), t in zip(columns, totals, strict=True)
                ),
            ]
            for kind in kinds
        ]
        note = "Share of executed blocks, by a classifier over the syntax tree and the sentence before the block."
        tables.append(Table("Code purpose", ("purpose", *heads), shares, numeric, note))
    return tables


def _measure(value: float | None, share: bool) -> str:
    if value is None:
        return "\u2013"
    if share:
        return percent(value)
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.2f}"


def reason_table(evaluations: Sequence[EvaluationInput]) -> Table:
    """Why samples were graded as they were."""
    columns = [
        (e.checkpoint, name, values["reasons"])
        for e in evaluations
        for name, values in e.summary["sets"].items()
    ]
    kinds = sorted({kind for *_, reasons in columns for kind in reasons})
    rows = [
        [kind.replace("_", " "), *(str(reasons.get(kind, 0)) for *_, reasons in columns)] for kind in kinds
    ]
    heads = [f"{checkpoint}, {name}" for checkpoint, name, _ in columns]
    return Table("Grades", ("reason", *heads), rows, frozenset(range(1, len(columns) + 1)))


def cost_table(evaluations: Sequence[EvaluationInput]) -> Table:
    """Tokens, seconds and tool time of each evaluation; spread of scores within and between problems."""
    rows = []
    for evaluation in evaluations:
        for name, values in evaluation.summary["sets"].items():
            tool = values["behaviour"]["tool_seconds"]
            variance = values["variance"]
            rows.append(
                [
                    f"{evaluation.checkpoint}, {name}",
                    f"{values['samples']:,}",
                    f"{values['tokens']:,}",
                    f"{tool:.1f}",
                    f"{evaluation.summary['sampling_seconds']:.1f}",
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
    """Which artifacts this report speaks of."""
    rows = []
    for name, manifest in inputs.manifests.items():
        rows.append(
            [name, manifest.kind, manifest.provenance.stage, str(manifest.provenance.seed), manifest.digest]
        )
    return Table("Lineage", ("input", "kind", "stage", "seed", "sha256"), rows, frozenset({3}))


def strips(evaluations: Sequence[EvaluationInput]) -> list[tuple[str, str, list[Strip]]]:
    """A heat strip of samples for every problem and checkpoint; hardest for the last checkpoint first."""
    cells: dict[tuple[str, str], dict[int, list[Sample]]] = {}
    for number, evaluation in enumerate(evaluations):
        for sample in evaluation.samples:
            cells.setdefault((sample.set, sample.problem_id), {}).setdefault(number, []).append(sample)
    last = len(evaluations) - 1
    sets = {key[0]: place for place, key in enumerate(cells)}
    order = sorted(cells, key=lambda key: (sets[key[0]], _share(cells[key].get(last, [])), key))
    return [
        (
            name,
            problem,
            [_strip(name, problem, n, cells[(name, problem)].get(n, [])) for n in range(len(evaluations))],
        )
        for name, problem in order
    ]


def _strip(name: str, problem: str, number: int, samples: Sequence[Sample]) -> Strip:
    ordered = sorted(samples, key=lambda sample: sample.sample)
    letters = "".join("V" if sample.void else "R" if sample.correct else "W" for sample in ordered)
    return Strip(name, problem, number, letters, f"{letters.count('R')} of {len(letters)} right")


def _share(samples: Sequence[Sample]) -> float:
    return sum(sample.correct for sample in samples) / len(samples) if samples else 0.0
