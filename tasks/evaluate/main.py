"""The `evaluate` stage: k samples a problem on every evaluation set, graded, with intervals and behaviour.

    python -m tasks.evaluate.main request.json

Resumable per problem and sample: finished samples lie in the scratch directory (`journal.py`).
"""

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import metadata
from typing import Any

from tasks.evaluate.journal import Journal
from tasks.evaluate.spec import EVALUATE
from tasks.shared.config import EvaluateStage
from tasks.shared.contract.stage import StageContext, StageResult, Value, stage_main
from tasks.shared.evaluation.problems import SampleRequest, read_problems, sample_requests
from tasks.shared.evaluation.sampling import Sampler, take_all
from tasks.shared.generation.endpoint.responses import ResponseLog
from tasks.shared.generation.engines import open_generator, sample_for_others
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.reporting.evaluated import protocol_of, write_evaluation
from tasks.shared.reporting.samples import SAMPLES_FILE, Sample
from tasks.shared.reporting.summary import summarize
from tasks.shared.rows.tables import write_card
from tasks.shared.tools.interpreter import open_tool
from tasks.shared.tools.protocol import Tool

# that samples depend on
LIBRARIES = ("math-verify", "numpy", "sympy", "tokenizers", "torch", "transformers", "vllm")
MOST_OUTAGES = 0.01  # of all samples; above it the sandbox is at fault and nothing is published


def run(context: StageContext[EvaluateStage]) -> StageResult:
    """Take the missing samples, then summarise and publish all."""
    config = context.config = context.config.limited()
    rendezvous = context.request.rendezvous
    if rendezvous is not None and rendezvous.only_samples:
        return sample_for_others(context, config.generation, config.model, context.input("checkpoint"))
    problems = read_problems(context.input("evaluation_sets"))
    requests = list(sample_requests(problems, config.evaluate.samples_per_problem, context.request.seed))
    journal = Journal(context.scratch / "samples", context.fingerprint())
    missing = [request for request in requests if request.key not in journal]
    total, num_taken = len(requests), len(requests) - len(missing)
    context.log(f"evaluation: {len(problems)} problems, {total} samples, {num_taken} already taken")
    started = time.monotonic()
    outages = _sample(context, journal, missing, total) if missing else []
    seconds = time.monotonic() - started
    if len(outages) > MOST_OUTAGES * total:
        raise RuntimeError(
            f"evaluation: the sandbox failed under {len(outages)} of {total} samples, each tried several times; "
            "see its health in the log, then run the stage again: finished samples are kept"
        )
    kept = {sample.key: sample for sample in [*journal.samples(), *outages]}
    ordered = [kept[request.key] for request in requests]
    by_set: dict[str, list[Sample]] = {}
    for sample in ordered:
        by_set.setdefault(sample.set, []).append(sample)
    summary = {
        "sets": {name: summarize(samples) for name, samples in by_set.items()},
        "protocol": protocol_of(config),
        "allow_unsafe": config.sandbox.allow_unsafe,
    }
    volatile = {
        "sampling_seconds": round(seconds, 3),
        "sampled_now": len(missing),
        # Several attempts batch the samples differently, and a matrix product may then round differently.
        "surroundings": environment_versions() | {"taken_before": str(num_taken)},
    }
    metrics = headline_metrics(summary)
    with context.output("evaluation", metrics) as output:
        write_evaluation(output.directory, ordered, summary, volatile)
        write_card(output.directory, {"default": SAMPLES_FILE}, "Graded samples of one checkpoint.")
    return StageResult(outputs={"evaluation": output.ref}, metrics=metrics)


def headline_metrics(summary: dict[str, Any]) -> dict[str, Value]:
    """The headline metrics of each set."""
    metrics: dict[str, Value] = {}
    for name, numbers in summary["sets"].items():
        low, high = numbers["interval"]
        headline = {"accuracy": numbers["accuracy"], "low": low, "high": high}
        headline |= {key: numbers["behaviour"][key] for key in ("code_ratio", "pass_ratio")}
        headline |= {key: numbers[key] for key in ("problems", "samples", "void")}
        metrics |= {f"{name}/{key}": value for key, value in headline.items()}
    return metrics


def environment_versions() -> dict[str, str]:
    """Versions, processor and threads by name: they explain why equal seeds gave different samples."""
    import torch

    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["processor"] = torch.backends.cpu.get_cpu_capability()
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found["threads"] = str(torch.get_num_threads())
    return found


def _sample(
    context: StageContext[EvaluateStage], journal: Journal, missing: Sequence[SampleRequest], total: int
) -> list[Sample]:
    """Take the missing samples into the journal; returns those that remain outages."""
    config = context.config
    tokenizer = load_tokenizer(context.input("checkpoint"))
    num_correct = 0
    reported = 0.0

    def keep(sample: Sample) -> None:
        nonlocal num_correct, reported
        journal.append(sample)
        num_correct += sample.correct
        if time.monotonic() - reported > 1.0:
            reported = time.monotonic()
            context.progress(len(journal), total, correct=num_correct)

    if config.evaluate.endpoint.is_asked:
        from tasks.evaluate.endpoint import EndpointSampler  # the API's client takes a second to import

        served = EndpointSampler(config, tokenizer, ResponseLog(context.scratch / "responses"))
        outages = take_all(served, missing, keep)
    else:
        outages = _sample_in_process(context, missing, keep)
    journal.flush()
    context.progress(len(journal), total, correct=num_correct, void=len(outages))
    return outages


def _sample_in_process(
    context: StageContext[EvaluateStage], missing: Sequence[SampleRequest], keep: Callable[[Sample], None]
) -> list[Sample]:
    """Take samples with an engine and a sandbox of this process."""
    config, checkpoint = context.config, context.input("checkpoint")
    tokenizer = load_tokenizer(checkpoint)
    with ExitStack() as stack:
        interpreter: Tool | None = None
        if config.traces.max_calls and config.traces.dialect != "text":
            interpreter = stack.enter_context(open_tool(config.sandbox))
        generator = stack.enter_context(
            open_generator(
                config.generation,
                config.model,
                checkpoint,
                tokenizer,
                scratch=context.scratch,
                rendezvous=context.request.rendezvous,
            )
        )
        return take_all(Sampler(config, generator, interpreter, tokenizer), missing, keep)


if __name__ == "__main__":
    raise SystemExit(stage_main(EVALUATE, run))
