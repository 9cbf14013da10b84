"""Stage `synthesize`: a teacher writes traces, the sandbox verifies every code block, accepted traces are published.

Output `traces`: train.parquet (accepted), rejected.parquet (the same columns, with reason and detail), funnel.json
(how many were written, rejected by each reason, accepted). Run by hand: `python -m tasks.synthesize.main request.json`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.shared.config import SynthesizeStage
from tasks.shared.interpreter import make_interpreter
from tasks.shared.stage import StageContext, StageResult, Value, stage_main
from tasks.shared.tables import read_table, write_card, write_table
from tasks.shared.traces.dialect import DIALECTS
from tasks.synthesize.execution import BlockRunner
from tasks.synthesize.script_teacher import ScriptTeacher
from tasks.synthesize.traces import Problem, Reason, Verdict, WrittenTrace
from tasks.synthesize.verify import Rules, verify

Context = StageContext[SynthesizeStage]
Checked = tuple[WrittenTrace, Verdict]
# an outage of the sandbox says nothing about traces; past this share the dataset would be what the outage left over
MAX_OUTAGE_SHARE = 0.02
PROGRESS_STEPS = 20


def run(context: Context) -> StageResult:
    """Write, verify and publish traces for every training problem."""
    config = context.config
    problems = _load_problems(context)
    rules = Rules(
        DIALECTS[config.traces.dialect],
        config.traces.max_calls,
        config.traces.error_feedback,
        config.traces.announce_remaining_calls,
        config.sandbox.stateful,
    )
    with make_interpreter(config.sandbox) as interpreter:
        teacher = ScriptTeacher(config.synthesize, rules, interpreter, context.request.seed)
        wanted = [
            (problem, index) for problem in problems for index in range(config.synthesize.traces_per_problem)
        ]
        checked = list(_write_and_verify(context, teacher, rules, interpreter, wanted))
    _refuse_outage(checked)
    return _publish(context, checked)


def _load_problems(context: Context) -> list[Problem]:
    """The training problems, none of which may be an evaluation problem."""
    rows = read_table(context.input("problems") / "train.parquet")
    problems = [Problem(**row) for row in rows]
    evaluation_dir = context.input("evaluation_sets")
    evaluation = {row["problem"] for path in _set_paths(evaluation_dir) for row in read_table(path)}
    shared = next((problem for problem in problems if problem.problem in evaluation), None)
    if shared is not None:
        raise ValueError(
            f"problem {shared.id} is to be trained on but is also in an evaluation set; "
            "take problems and evaluation_sets from one run of prepare"
        )
    return problems


def _set_paths(directory: Path) -> list[Path]:
    sets = json.loads((directory / "sets.json").read_text(encoding="utf-8"))
    return [directory / f"{entry['name']}.parquet" for entry in sets]


def _write_and_verify(
    context: Context,
    teacher: ScriptTeacher,
    rules: Rules,
    runner: BlockRunner,
    wanted: Sequence[tuple[Problem, int]],
) -> Iterator[Checked]:
    """Traces with their verdicts, in the order of `wanted`; threads only wait for the sandbox."""

    def one(job: tuple[Problem, int]) -> Checked:
        written = teacher.write(*job)
        return written, verify(written, rules, runner)

    every = max(1, len(wanted) // PROGRESS_STEPS)
    num_accepted = 0
    with ThreadPoolExecutor(max_workers=2 * context.config.sandbox.workers) as threads:
        for step, checked in enumerate(threads.map(one, wanted), start=1):
            num_accepted += checked[1].accepted
            if step % every == 0 or step == len(wanted):
                context.progress(step, len(wanted), accepted=num_accepted, rejected=step - num_accepted)
            yield checked


def _refuse_outage(checked: Sequence[Checked]) -> None:
    failed = [verdict for _, verdict in checked if verdict.reason is Reason.SANDBOX_FAILURE]
    if len(failed) > MAX_OUTAGE_SHARE * len(checked):
        raise RuntimeError(
            f"the sandbox failed on {len(failed)} of {len(checked)} traces, lately: {failed[-1].detail}; "
            "see its health, then run again"
        )


def _publish(context: Context, checked: Sequence[Checked]) -> StageResult:
    instructed = context.config.traces.prompt == "instructed"
    dialect = DIALECTS[context.config.traces.dialect]
    rows = [
        _row(written, verdict, dialect.prompt(written.problem.problem, instructed))
        for written, verdict in checked
    ]
    accepted = [row for row in rows if not row["reason"]]
    if not accepted:
        reasons = Counter(row["reason"] for row in rows).most_common(1)
        raise ValueError(
            f"synthesize: no trace of {len(rows)} was accepted, most often for {reasons}; see the teacher"
        )
    funnel = _funnel(rows)
    with context.output("traces", _metrics(checked, funnel)) as output:
        write_table(output.directory / "train.parquet", accepted, _schema())
        write_table(output.directory / "rejected.parquet", [row for row in rows if row["reason"]], _schema())
        (output.directory / "funnel.json").write_text(json.dumps(funnel, indent=1), encoding="utf-8")
        tables = {"default": "train.parquet", "rejected": "rejected.parquet"}
        write_card(
            output.directory, tables, "Traces, every code block executed again; `rejected` says why not."
        )
    assert output.ref is not None
    context.log(f"traces: {len(accepted)} of {len(rows)} accepted; rejected: {funnel['rejected']}")
    return StageResult(outputs={"traces": output.ref}, metrics=output.metrics)


def _row(written: WrittenTrace, verdict: Verdict, prompt: str) -> dict[str, Any]:
    problem = written.problem
    return {
        "id": written.id,
        "problem_id": problem.id,
        "problem": problem.problem,
        "answer": problem.answer,
        "source": problem.source,
        "family": problem.family,
        "trace": written.trace,
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": written.trace}],
        "num_calls": len(verdict.block_status),
        "block_status": list(verdict.block_status),
        "reason": verdict.reason.value,
        "detail": verdict.detail,
        "fault": written.fault.value,
    }


def _schema() -> Any:
    import pyarrow

    text = pyarrow.string()
    message = pyarrow.struct([("role", text), ("content", text)])
    columns: dict[str, Any] = dict.fromkeys(
        ("id", "problem_id", "problem", "answer", "source", "family", "trace"), text
    )
    columns |= {
        "messages": pyarrow.list_(message),
        "num_calls": pyarrow.int64(),
        "block_status": pyarrow.list_(text),
    }
    columns |= dict.fromkeys(("reason", "detail", "fault"), text)
    return pyarrow.schema(list(columns.items()))


def _funnel(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the report draws: traces written, rejected by reason, accepted, and accepted with code."""
    accepted = [row for row in rows if not row["reason"]]
    return {
        "written": len(rows),
        "rejected": _counts(row["reason"] for row in rows if row["reason"]),
        "accepted": len(accepted),
        "accepted_with_code": sum(1 for row in accepted if row["num_calls"]),
        "accepted_by_calls": _counts(str(row["num_calls"]) for row in accepted),
        "accepted_by_family": _counts(row["family"] for row in accepted),
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _metrics(checked: Sequence[Checked], funnel: dict[str, Any]) -> dict[str, Value]:
    """Headline numbers. Seconds stand here and not in the tables, whose bytes must not depend on the clock."""
    seconds = [second for _, verdict in checked for second in verdict.block_seconds]
    return {
        "written": funnel["written"],
        "accepted": funnel["accepted"],
        "acceptance": round(funnel["accepted"] / funnel["written"], 4),
        "code_share": round(funnel["accepted_with_code"] / funnel["accepted"], 4),
        "blocks_executed": len(seconds),
        "block_seconds_mean": round(sum(seconds) / len(seconds), 5) if seconds else 0.0,
    }


if __name__ == "__main__":
    raise SystemExit(stage_main("synthesize", run))
