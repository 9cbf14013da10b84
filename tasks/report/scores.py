"""The headline: each set with its checkpoints, paired differences, whiskers, pass@k and maj@k, and remarks."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from markupsafe import Markup

from tasks.report.inputs import EvaluationInput
from tasks.report.page import Cell, SetSection
from tasks.shared.estimates.accuracy import Evaluation
from tasks.shared.estimates.comparison import Comparison, compare, needed_samples
from tasks.shared.reporting.charts import Line, Whisker, curve, whiskers
from tasks.shared.reporting.summary import as_evaluation

ABOUT_ZERO = 0.02
TONES = 5  # colours of the page
NONE = "\u2013"  # a cell without a value
COLUMNS = ("accuracy", "bootstrap", "pass@k", "maj@k", "code ratio", "pass ratio", "tokens", "void")


def set_sections(evaluations: Sequence[EvaluationInput]) -> list[SetSection]:
    """Return a section for each set, in the order of the first evaluation that has it."""
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.summary["sets"])
    return [_section(name, [e for e in evaluations if name in e.summary["sets"]]) for name in names]


def comparisons(name: str, evaluations: Sequence[EvaluationInput]) -> list[tuple[str, str, Comparison]]:
    """Compare every later checkpoint with every earlier one on the set: (before, after, comparison).

    Both sides keep the problems that both have: one may have lost every sample to the sandbox, and evaluations of
    different artifacts may use one name for different problems.
    """
    pairs = [(pair, _shared(name, *pair)) for pair in combinations(evaluations, 2)]
    return [
        (before.checkpoint, after.checkpoint, compare(*shared))
        for (before, after), shared in pairs
        if shared[0]
    ]


def _shared(name: str, before: EvaluationInput, after: EvaluationInput) -> tuple[Evaluation, Evaluation]:
    """Return the outcomes of both sides on the problems that both have, equal in text and answer."""
    samples = [[sample for sample in side.samples if sample.set == name] for side in (before, after)]
    texts = [{s.problem_id: (s.problem, s.answer) for s in side} for side in samples]
    first, second = (as_evaluation(side) for side in samples)
    both = [key for key in first if key in second and texts[0][key] == texts[1][key]]
    return {key: first[key] for key in both}, {key: second[key] for key in both}


def _section(name: str, evaluations: Sequence[EvaluationInput]) -> SetSection:
    numbers = {evaluation.checkpoint: evaluation.summary["sets"][name] for evaluation in evaluations}
    compared = comparisons(name, evaluations)
    some = next(iter(numbers.values()))
    k = some["samples_per_problem"]
    return SetSection(
        name=name,
        caption=f"{some['problems']} problems, {some['samples']} samples a checkpoint; k = {k} (fewest of a problem).",
        scores=[(checkpoint, _score_cells(values)) for checkpoint, values in numbers.items()],
        score_columns=COLUMNS,
        comparisons=[
            (f"{after} \u2212 {before}", _difference_cells(result)) for before, after, result in compared
        ],
        charts=_charts(name, numbers),
        remarks=_remarks(name, numbers, compared, evaluations),
    )


def _score_cells(values: dict[str, Any]) -> list[Cell]:
    most = str(values["samples_per_problem"])
    behaviour = values["behaviour"]
    best, voted = values["pass_at"][most], values["maj_at"][most]
    return [
        Cell(percent(values["accuracy"]), span(values["interval"])),
        Cell("", span(values["bootstrap"])),
        Cell(percent(best["value"]), span(best["interval"])),
        Cell(percent(voted["value"]), span(voted["interval"])),
        Cell(percent(behaviour["code_ratio"])),
        Cell(percent(behaviour["pass_ratio"])),
        Cell(NONE if behaviour["response_tokens"] is None else f"{behaviour['response_tokens']:.0f}"),
        Cell(str(values["void"])),
    ]


def _difference_cells(result: Comparison) -> list[Cell]:
    difference = result.difference
    interval, bootstrap = (
        f"{points(ends.low)} to {points(ends.high)}" for ends in (difference.interval, difference.bootstrap)
    )
    verdict = "" if not result.significant else "better" if difference.value > 0 else "worse"
    counts = f"{result.better} up, {result.worse} down, {result.equal} equal"
    return [
        Cell(points(difference.value), interval, verdict),
        Cell("", bootstrap),
        Cell(f"p = {result.sign_p:.2g}", counts),
    ]


def _charts(name: str, numbers: dict[str, dict[str, Any]]) -> list[Markup]:
    tones = {checkpoint: place % TONES for place, checkpoint in enumerate(numbers)}
    rows = [
        Whisker(c, v["accuracy"], v["interval"][0], v["interval"][1], tones[c]) for c, v in numbers.items()
    ]
    charts = [whiskers(f"Accuracy on {name}, 95 % intervals", rows)]
    for key, label in (("pass_at", "pass@k"), ("maj_at", "maj@k")):
        lines = []
        for checkpoint, values in numbers.items():
            ks, estimates = map(int, values[key]), list(values[key].values())
            low, high = zip(*(estimate["interval"] for estimate in estimates), strict=True)
            ys = [estimate["value"] for estimate in estimates]
            lines.append(Line(checkpoint, list(ks), ys, low, high, tones[checkpoint]))
        if all(len(line.xs) > 1 for line in lines):
            charts.append(curve(f"{label} on {name}", lines, "k", percent=True))
    return charts


def _remarks(
    name: str,
    numbers: dict[str, dict[str, Any]],
    compared: Sequence[tuple[str, str, Comparison]],
    evaluations: Sequence[EvaluationInput],
) -> list[str]:
    remarks = []
    if all(values["accuracy"] < ABOUT_ZERO for values in numbers.values()):
        scores = ", ".join(
            f"{checkpoint} {percent(values['accuracy'])}" for checkpoint, values in numbers.items()
        )
        high = max(values["interval"][1] for values in numbers.values())
        return [
            f"Accuracy on {name} is about zero ({scores}; up to {percent(high)} is compatible with the data): "
            "these problems are beyond the model, and nothing here tells the checkpoints apart."
        ]
    pairs = {(before, after) for before, after, _ in compared}
    for first, second in combinations(numbers, 2):
        if (first, second) not in pairs:
            remarks.append(f"{second} and {first} have no problem in common here: they are not compared.")
    for before, after, result in compared:
        if not result.significant:
            remarks.append(
                f"{after} against {before}: the interval of the difference includes zero, so no difference is shown. "
                + _needed(name, before, after, evaluations)
            )
    if any(values["void"] for values in numbers.values()):
        remarks.append("Void samples, under which the sandbox failed every time, are in no estimate.")
    return remarks


def _needed(name: str, before: str, after: str, evaluations: Sequence[EvaluationInput]) -> str:
    sides = {e.checkpoint: e for e in evaluations}
    size = needed_samples(*_shared(name, sides[before], sides[after]), 0.05)
    number = size.samples_per_problem
    samples = "no number of samples" if number is None else f"{number} samples a problem"
    return f"To see 5 points in four of five cases: {samples} on these problems, or {size.problems} such problems."


def percent(value: float | None) -> str:
    """Write a share as per cent, or a dash for None."""
    return NONE if value is None else f"{value * 100:.1f} %"


def span(ends: Sequence[float]) -> str:
    """Write an interval in per cent."""
    return f"{ends[0] * 100:.1f} to {ends[1] * 100:.1f}"


def points(value: float) -> str:
    """Write a difference in percentage points, with its sign."""
    return f"{value * 100:+.1f}".replace("-", "\u2212")
