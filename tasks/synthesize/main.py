"""Stage `synthesize`: a teacher writes traces, the sandbox verifies every code block, accepted traces are published.

What the artifact `traces` holds stands in `publish.py`; `responses` is what a model said, raw. Run by hand:
`python -m tasks.synthesize.main request.json`.
"""

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tasks.shared.contract.scratch import claim
from tasks.shared.contract.stage import StageContext, StageResult, stage_main
from tasks.shared.generation.endpoint.responses import ResponseLog
from tasks.shared.generation.engines import sample_for_others
from tasks.shared.tools.interpreter import open_tool
from tasks.shared.tools.protocol import Tool
from tasks.synthesize.inputs import evaluation_problems, read_requests
from tasks.synthesize.publish import publish, publish_responses
from tasks.synthesize.selection import Judge, References, evaluation_grams, read_pass_rates, select
from tasks.synthesize.spec import SYNTHESIZE, SynthesizeStage
from tasks.synthesize.teachers.prompting import TraceRequest
from tasks.synthesize.teachers.teacher import Teacher, make_teacher, teacher_weights
from tasks.synthesize.traces import Checked, Reason, WrittenTrace
from tasks.synthesize.verify import Rules, settle, verify

Context = StageContext[SynthesizeStage]
# an outage of the sandbox says nothing about traces; past this share the dataset would be what the outage left over
MAX_OUTAGE_SHARE = 0.02
PROGRESS_STEPS = 20


def run(context: Context) -> StageResult:
    """Write, verify, select and publish traces."""
    config, meeting = context.config, context.request.meeting
    if meeting is not None and meeting.only_samples:
        assert config.generation is not None and config.model is not None
        return sample_for_others(
            context, config.generation, config.model, teacher_weights(context).checkpoint
        )
    wanted = read_requests(context)
    rules = Rules.of(config)
    log = _open_log(context)
    if config.synthesize.mode != "script":
        context.log(f"{len(log)} responses of earlier; new ones are kept in {log.directory}")
    with open_tool(config.sandbox) as interpreter:
        teacher = make_teacher(context, rules, interpreter, log)
        checked = settle(_write_and_verify(context, teacher, rules, interpreter, wanted), rules, interpreter)
    _refuse_outage(checked)
    with _judge(context, log) as judge:
        references = _references(context, judge)
        selected = select(checked, config.synthesize.selection, rules.dialect, references)
    published = publish(context, selected)
    responses = {"responses": publish_responses(context, log)} if len(log) else {}
    return StageResult(outputs=published.outputs | responses, metrics=published.metrics | teacher.metrics)


def _open_log(context: Context) -> ResponseLog:
    """The responses in the scratch directory, and the earlier ones that this request takes over.

    A response is found by what was sent; what is not sent, this request must share with the one that asked.
    """
    directory, settings = context.scratch / "responses", context.config.synthesize
    unsent = {
        "seed": context.request.seed,
        "synthesize.teacher.base_url": settings.teacher.base_url,
        "synthesize.judge.base_url": settings.judge.base_url,
    }
    remedy = f"use another scratch directory (synthesize.responses = '{directory}' takes them over)"
    claim(directory, json.dumps(unsent, sort_keys=True), "responses", remedy)
    return ResponseLog(directory, _earlier_responses(context))


def _earlier_responses(context: Context) -> list[Path]:
    """Logs whose responses are taken before anything is asked: an input, and a directory that the recipe names."""
    named = context.config.synthesize.responses
    given = [context.input("responses")] if "responses" in context.request.inputs else []
    return [*given, Path(named)] if named else given


def _judge(context: Context, log: ResponseLog) -> AbstractContextManager[Judge | None]:
    """The model that votes on code, if the recipe names one."""
    config = context.config.synthesize.judge
    if not config.model:
        return nullcontext()
    from tasks.synthesize.teachers.judge import EndpointJudge

    return EndpointJudge(config, log)


def _references(context: Context, judge: Judge | None) -> References:
    """What the traces are selected by; `pass_rates` is an optional input."""
    n = context.config.synthesize.selection.decontaminate_ngram
    rated = "pass_rates" in context.request.inputs
    return References(
        grams=evaluation_grams(evaluation_problems(context), n) if n else {},
        pass_rates=read_pass_rates(context.input("pass_rates")) if rated else None,
        judge=judge,
    )


def _write_and_verify(
    context: Context, teacher: Teacher, rules: Rules, runner: Tool, wanted: Sequence[TraceRequest]
) -> list[Checked]:
    """Traces with their verdicts, in the order of `wanted`: verified while the teacher writes on."""

    def check(written: WrittenTrace) -> Checked:
        return written, written.loss or verify(written, rules, runner)

    every = max(1, len(wanted) // PROGRESS_STEPS)
    checks: list[Future[Checked]] = []
    with ThreadPoolExecutor(max_workers=2 * context.config.sandbox.workers) as threads:
        for written in teacher.write(wanted):
            checks.append(threads.submit(check, written))
            if len(checks) % every == 0:
                done = [future.result()[1].accepted for future in checks if future.done()]
                context.progress(len(checks), len(wanted), accepted=sum(done), rejected=done.count(False))
    checked = {written.id: (written, verdict) for written, verdict in (check.result() for check in checks)}
    accepted = sum(verdict.accepted for _, verdict in checked.values())
    context.progress(len(checks), len(wanted), accepted=accepted, rejected=len(checked) - accepted)
    return [checked[want.id] for want in wanted if want.id in checked]


def _refuse_outage(checked: Sequence[Checked]) -> None:
    failed = [verdict for _, verdict in checked if verdict.reason is Reason.SANDBOX_FAILURE]
    if len(failed) > MAX_OUTAGE_SHARE * len(checked):
        raise RuntimeError(
            f"the sandbox failed on {len(failed)} of {len(checked)} traces, lately: {failed[-1].detail}; "
            "see its health, then run again"
        )


if __name__ == "__main__":
    raise SystemExit(stage_main(SYNTHESIZE, run))
