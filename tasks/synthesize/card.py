"""The dataset card of verified traces: how they were made, what was taken out, what the columns mean."""

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
    lines += [f"| {row['step']} | {row['left']:,} | {_reasons(row['rejected'])} |" for row in funnel["steps"]]
    lines += ["", "| calls | traces |", "|---|---|"]
    lines += [f"| {calls} | {count:,} |" for calls, count in funnel["accepted_by_calls"].items()]
    lines += ["", "| source | traces |", "|---|---|"]
    lines += [f"| {source} | {count:,} |" for source, count in funnel["accepted_by_source"].items()]
    lines += ["", "| column | |", "|---|---|"]
    lines += [f"| {name} | {meaning} |" for name, meaning in COLUMNS.items()]
    settings = {"verification": synthesize.verification, "selection": synthesize.selection}
    lines += ["", "Settings: " + "; ".join(f"{name}: {section}" for name, section in settings.items()) + "."]
    return "\n".join(lines)


def _reasons(rejected: dict[str, int]) -> str:
    return ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in rejected.items())
