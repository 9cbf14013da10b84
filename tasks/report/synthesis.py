"""Synthesis in the report: the funnel from written to selected traces as chart and table, and examples."""

from typing import Any

from markupsafe import Markup

from tasks.report.bars import FunnelStep, funnel
from tasks.report.page import Table
from tasks.report.scores import percent

Funnel = dict[str, Any]  # funnel.json of a `traces` artifact
NUMBERS = frozenset({2, 3})


def funnel_chart(counts: Funnel) -> Markup:
    """The traces that each step keeps and removes."""
    steps = [FunnelStep("written", counts["written"], 0)]
    steps += [FunnelStep(row["step"], row["left"], sum(row["rejected"].values())) for row in counts["steps"]]
    return funnel("Traces after each step of verification and selection", steps)


def synthesis_tables(counts: Funnel) -> list[Table]:
    """The funnel by step and reason, and up to five rejected traces of each reason."""
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
