"""Stage `synthesize`: a teacher writes traces, the sandbox verifies every code block, accepted traces are published.

Outputs: `traces` (see `publish.py`) and `responses`, the raw responses of models. Run by hand:
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
from tasks.shared.rows.ngrams import gram_owners
from tasks.shared.tools.interpreter import open_tool
from tasks.shared.tools.protocol import Tool
from tasks.synthesize.inputs import evaluation_problems, read_requests
from tasks.synthesize.publish import publish, publish_responses
from tasks.synthesize.selection import Judge, References, rate_of, read_pass_rates, select
from tasks.synthesize.spec import SYNTHESIZE, SynthesizeStage
from tasks.synthesize.teachers.prompting import TraceRequest
from tasks.synthesize.teachers.teacher import Teacher, make_teacher, teacher_weights
from tasks.synthesize.traces import Checked, Reason, WrittenTrace
from tasks.synthesize.verify import Rules, settle, verify

Context = StageContext[SynthesizeStage]
# an outage of the sandbox says nothing about traces; above this share it would decide what the dataset holds
MAX_OUTAGE_SHARE = 0.02
PROGRESS_STEPS = 20


def run(context: Context) -> StageResult:
    """Write, verify, select and publish traces."""
    config, rendezvous = context.config, context.request.rendezvous
    if rendezvous is not None and rendezvous.only_samples:
        assert config.generation is not None and config.model is not None
        return sample_for_others(
            context, config.generation, config.model, teacher_weights(context).checkpoint
        )
    requests = read_requests(context)
    rules = Rules.of(config)
    log = _open_log(context)
    if config.synthesize.mode != "script":
        context.log(f"{len(log)} earlier responses; new ones are kept in {log.directory}")
    with _judge(
        context, log
    ) as judge:  # a mistake in it, or in the references, is found before a teacher is paid
        references = _references(context, judge, requests)
        with open_tool(config.sandbox) as interpreter:
            teacher = make_teacher(context, rules, interpreter, log)
            verified = _write_and_verify(context, teacher, rules, interpreter, requests)
            checked = settle(verified, rules, interpreter)
        _refuse_outage(checked)
        selected = select(checked, config.synthesize.selection, rules.dialect, references)
    published = publish(context, selected)
    responses = {"responses": publish_responses(context, log)} if len(log) else {}
    return StageResult(outputs=published.outputs | responses, metrics=published.metrics | teacher.metrics)


def _open_log(context: Context) -> ResponseLog:
    """The responses in the scratch directory, and the earlier ones that this request may use.

    The content that was sent identifies a response. Settings that are not sent must be those of the earlier request.
    """
    directory, settings = context.scratch / "responses", context.config.synthesize
    unsent = {
        "seed": context.request.seed,
        "synthesize.teacher.base_url": settings.teacher.base_url,
        "synthesize.judge.base_url": settings.judge.base_url,
    }
    remedy = f"use another scratch directory (synthesize.responses = '{directory}' takes them over)"
    claim(directory, json.dumps(unsent, sort_keys=True), "responses", remedy)
    earlier = [context.input("responses")] if "responses" in context.request.inputs else []
    return ResponseLog(directory, [*earlier, Path(settings.responses)] if settings.responses else earlier)


def _judge(context: Context, log: ResponseLog) -> AbstractContextManager[Judge | None]:
    """The model that votes on code, if the recipe names one."""
    config = context.config.synthesize.judge
    if not config.model:
        return nullcontext()
    from tasks.synthesize.teachers.judge import EndpointJudge

    return EndpointJudge(config, log)


def _references(context: Context, judge: Judge | None, requests: Sequence[TraceRequest]) -> References:
    """The data by which traces are selected. `pass_rates` is an optional input; ValueError if it rates no request."""
    n = context.config.synthesize.selection.decontaminate_ngram
    rates = read_pass_rates(context.input("pass_rates")) if "pass_rates" in context.request.inputs else None
    if rates is not None and all(rate_of(request.problem, rates) is None for request in requests):
        raise ValueError(
            "input pass_rates: it has no sample of any problem to write for, so no trace would be left; give an "
            "evaluation of these problems, or rollouts on them"
        )
    return References(gram_owners(evaluation_problems(context), n) if n else {}, rates, judge)


def _write_and_verify(
    context: Context, teacher: Teacher, rules: Rules, runner: Tool, requests: Sequence[TraceRequest]
) -> list[Checked]:
    """Traces with their verdicts, in the order of `requests`; verified while the teacher writes the next ones."""

    def check(written: WrittenTrace) -> Checked:
        return written, written.loss or verify(written, rules, runner)

    every = max(1, len(requests) // PROGRESS_STEPS)
    checks: list[Future[Checked]] = []

    def report() -> None:
        accepted = [future.result()[1].accepted for future in checks if future.done()]
        context.progress(len(checks), len(requests), accepted=sum(accepted), rejected=accepted.count(False))

    with ThreadPoolExecutor(max_workers=2 * context.config.sandbox.workers) as threads:
        for written in teacher.write(requests):
            checks.append(threads.submit(check, written))
            if len(checks) % every == 0:
                report()
    report()
    checked = {written.id: (written, verdict) for written, verdict in (check.result() for check in checks)}
    return [checked[request.id] for request in requests if request.id in checked]


def _refuse_outage(checked: Sequence[Checked]) -> None:
    failed = [verdict for _, verdict in checked if verdict.reason is Reason.SANDBOX_FAILURE]
    if len(failed) > MAX_OUTAGE_SHARE * len(checked):
        raise RuntimeError(
            f"the sandbox failed on {len(failed)} of {len(checked)} traces, last: {failed[-1].detail}; "
            "see its health, then run again"
        )


if __name__ == "__main__":
    raise SystemExit(stage_main(SYNTHESIZE, run))
