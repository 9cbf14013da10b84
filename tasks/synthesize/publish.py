"""Publishes verified traces and the seconds of their blocks.

Output `traces`: train.parquet (selected), rejected.parquet (the same columns, with reason and detail), funnel.json
(counts by step and reason, with examples), README.md (the card), and circumstances/seconds.parquet (one row for each
block, outside the digest: seconds depend on the clock, and equal traces must give equal bytes).
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tasks.shared.artifacts import VOLATILE, ArtifactRef
from tasks.shared.config.endpoint import EndpointConfig
from tasks.shared.contract.stage import StageContext, StageResult, Value
from tasks.shared.generation.endpoint.responses import ResponseLog
from tasks.shared.rows.tables import write_card, write_table
from tasks.shared.traces.dialect import dialect_of
from tasks.synthesize.card import TABLES, describe
from tasks.synthesize.funnel import funnel_of
from tasks.synthesize.rows import trace_row, trace_schema
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.traces import Checked

PUBLISHED_NAME = "responses.jsonl.gz"
Context = StageContext[SynthesizeStage]


def publish(context: Context, checked: Sequence[Checked]) -> StageResult:
    """Publish the artifact. ValueError if nothing was accepted."""
    import pyarrow

    funnel = funnel_of(checked)
    if not funnel["accepted"]:
        reasons = Counter(funnel["rejected"]).most_common(1)
        raise ValueError(
            f"synthesize: no trace of {len(checked)} was accepted, most often for {reasons}; see the teacher"
        )
    seconds: list[dict[str, Any]] = [
        {"id": written.id, "block": block, "seconds": seconds}
        for written, verdict in checked
        for block, seconds in enumerate(verdict.block_seconds)
    ]
    metrics = _metrics(funnel, [row["seconds"] for row in seconds])
    config = context.config
    dialect = dialect_of(config.traces, config.sandbox.preload)
    instructed = config.traces.prompt == "instructed"
    accepted = [trace_row(entry, dialect, instructed) for entry in checked if entry[1].accepted]
    rejected = [trace_row(entry, dialect, instructed) for entry in checked if not entry[1].accepted]
    teachers = sorted({written.teacher for written, _ in checked})
    with context.output("traces", metrics) as output:
        write_table(output.directory / TABLES["default"], accepted, trace_schema())
        write_table(output.directory / TABLES["rejected"], rejected, trace_schema())
        (output.directory / "funnel.json").write_text(json.dumps(funnel, indent=1), encoding="utf-8")
        write_card(output.directory, TABLES, describe(config, funnel, teachers))
        (output.directory / VOLATILE).mkdir()
        columns = {"id": pyarrow.string(), "block": pyarrow.int64(), "seconds": pyarrow.float64()}
        write_table(output.directory / VOLATILE / "seconds.parquet", seconds, pyarrow.schema(columns))
    context.log(
        f"traces: {funnel['accepted']} of {funnel['written']} accepted; rejected: {funnel['rejected']}"
    )
    return StageResult(outputs={"traces": output.ref}, metrics=metrics)


def publish_responses(context: Context, log: ResponseLog) -> ArtifactRef:
    """Publish all responses of models for these traces, and the cost of each problem, as the artifact `responses`."""
    import pyarrow

    rows = []
    for (asker, problem_id), (count, usage) in log.usage_by_problem().items():
        endpoint: EndpointConfig = getattr(context.config.synthesize, asker)
        money = round(usage.money(endpoint.prompt_price, endpoint.completion_price), 6)
        row = {"asker": asker, "problem_id": problem_id, "responses": count, **asdict(usage), "money": money}
        rows.append(row)
    numbers = dict.fromkeys(("responses", "prompt_tokens", "completion_tokens"), pyarrow.int64())
    names = dict.fromkeys(("asker", "problem_id"), pyarrow.string())
    schema = pyarrow.schema(names | numbers | {"money": pyarrow.float64()})
    with context.output("responses", {"responses": len(log)}) as output:
        log.write(output.directory / PUBLISHED_NAME)
        write_table(output.directory / "usage.parquet", rows, schema)
        tables = {"default": PUBLISHED_NAME, "usage": "usage.parquet"}
        write_card(
            output.directory, tables, "Raw responses of teacher and judge; `usage`: the cost of each problem."
        )
    return output.ref


def _metrics(funnel: dict[str, Any], seconds: Sequence[float]) -> dict[str, Value]:
    """Headline numbers."""
    return {
        "written": funnel["written"],
        "accepted": funnel["accepted"],
        "acceptance": round(funnel["accepted"] / funnel["written"], 4),
        "code_share": round(funnel["accepted_with_code"] / funnel["accepted"], 4),
        "blocks_executed": len(seconds),
        "block_seconds_mean": round(sum(seconds) / len(seconds), 5) if seconds else 0.0,
    }
