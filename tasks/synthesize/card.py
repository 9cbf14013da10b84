"""The dataset card of verified traces: how they were made, which were removed, and what the columns mean."""

from typing import Any

from tasks.synthesize.spec import SynthesizeStage

TABLES = {"default": "train.parquet", "rejected": "rejected.parquet"}
COLUMNS = {
    "trace": "the response in the dialect, as SFT reads it",
    "messages": "the same as chat: the prompt and one assistant message",
    "spans": "character offsets into `trace`: each program (`code`) and each output (`interpreter`, out of the loss)",
    "block_status": "how each block ended when executed again; its seconds stand in circumstances/seconds.parquet",
    "num_replaced": "recorded outputs that were replaced by the true ones",
    "problem, answer, problem_id, source, family": "the problem, its reference answer, and where it comes from",
    "teacher, prompt_digest": "who wrote the trace, and the sha256 of the prompt it was given",
    "scores": "what the filters measured; null where a filter did not run",
    "reason, detail": "empty in the default table; in `rejected`, why a trace is not in it",
}


def describe(config: SynthesizeStage, funnel: dict[str, Any], teachers: list[str]) -> str:
    """The text of the card, Markdown."""
    synthesize, traces = config.synthesize, config.traces
    lines = [
        "# Traces of tool-integrated reasoning",
        "",
        f"{funnel['accepted']:,} of {funnel['written']:,} traces written by {', '.join(teachers)} (mode "
        f"`{synthesize.mode}`), dialect `{traces.dialect}`, at most {traces.max_calls} calls. Every code block was "
        "executed again and its output compared; answers agree with the reference.",
        "",
        "| step | left | taken out |",
        "|---|---|---|",
    ]
    for row in funnel["steps"]:
        reasons = ", ".join(
            f"{reason.replace('_', ' ')} {count:,}" for reason, count in row["rejected"].items()
        )
        lines.append(f"| {row['step']} | {row['left']:,} | {reasons} |")
    for column in ("calls", "source"):
        lines += ["", f"| {column} | traces |", "|---|---|"]
        lines += [f"| {value} | {count:,} |" for value, count in funnel[f"accepted_by_{column}"].items()]
    lines += ["", "| column | |", "|---|---|"]
    lines += [f"| {name} | {meaning} |" for name, meaning in COLUMNS.items()]
    settings = {"verification": synthesize.verification, "selection": synthesize.selection}
    lines += ["", "Settings: " + "; ".join(f"{name}: {section}" for name, section in settings.items()) + "."]
    return "\n".join(lines)
