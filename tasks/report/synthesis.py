"""Synthesis in the report: the funnel from written to selected traces as chart and table, and examples."""

from typing import Any

from markupsafe import Markup

from tasks.report.page import Table
from tasks.report.scores import percent
from tasks.shared.reporting.charts import WIDTH, figure, text

Funnel = dict[str, Any]  # funnel.json of a `traces` artifact
NUMBERS = frozenset({2, 3})
ROW, BAR = 24, 14  # heights in the chart
LEFT, RIGHT = 104, 100  # margins


def funnel_chart(counts: Funnel) -> Markup:
    """Draw a bar for what each step keeps and, beside it, one for what it removes."""
    steps = [("written", counts["written"], 0)]
    steps += [(row["step"], row["left"], sum(row["rejected"].values())) for row in counts["steps"]]
    scale = (WIDTH - LEFT - RIGHT) / (max(kept + removed for _, kept, removed in steps) or 1)
    parts = []
    for number, (name, kept, removed) in enumerate(steps):
        top = 6 + ROW * number
        middle, end = top + BAR - 3, LEFT + scale * kept
        parts.append(text("name", LEFT - 8, middle, name, "end"))
        for tone, start, width in ((1, LEFT, scale * kept), (2, end, scale * removed)):
            place = f'x="{start:.1f}" y="{top}" width="{width:.1f}" height="{BAR}"'
            parts.append(f'<g class="tone{tone}"><rect class="part" {place}/></g>')
        count = f"{kept:,}" + (f"  \u2212{removed:,}" if removed else "")
        parts.append(text("value", end + scale * removed + 6, middle, count, "start"))
    title = "Traces after each step of verification and selection"
    return figure(title, "".join(parts), WIDTH, 12 + ROW * len(steps))


def synthesis_tables(counts: Funnel) -> list[Table]:
    """Return the funnel by step and reason, and up to five rejected traces of each reason."""
    written = max(counts["written"], 1)
    rows = [("written", "", counts["written"])]
    for step in counts["steps"]:
        rows += [(step["step"], f"rejected: {_words(reason)}", n) for reason, n in step["rejected"].items()]
    rows += [("selected", "", counts["accepted"]), ("selected", "with code", counts["accepted_with_code"])]
    tables = [
        Table(
            "Synthesis",
            ("step", "traces", "number", "share"),
            [(step, what, f"{count:,}", percent(count / written)) for step, what, count in rows],
            NUMBERS,
            "Every code block of every trace was executed again and its output compared.",
        )
    ]
    examples = [
        (_words(reason), example["id"], example["detail"])
        for reason, found in counts["examples"].items()
        for example in found
    ]
    if examples:
        note = "Up to five of each reason; the viewer shows more of them in full."
        tables.append(Table("Rejected traces", ("reason", "trace", "why"), examples, note=note))
    return tables


def _words(reason: str) -> str:
    return reason.replace("_", " ")
