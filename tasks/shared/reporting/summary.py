"""The summary of one evaluation set: estimates with intervals, reasons, behaviour, cost. Plain data, JSON-ready."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tasks.shared.estimates.accuracy import Evaluation, Outcome, avg_at_k, maj_at_k, pass_at_k, variance_split
from tasks.shared.estimates.intervals import Estimate
from tasks.shared.grading import pooled
from tasks.shared.reporting.behaviour import measure
from tasks.shared.reporting.purpose import classify
from tasks.shared.reporting.samples import Sample


def as_evaluation(samples: Sequence[Sample]) -> Evaluation:
    """The outcomes of the samples by problem, outages left out."""
    evaluation: dict[str, list[Outcome]] = {}
    for sample in samples:
        if not sample.outage:
            evaluation.setdefault(sample.problem_id, []).append(Outcome(sample.correct, sample.predicted))
    return evaluation


def with_pooled_answers(evaluation: Evaluation) -> Evaluation:
    """The same outcomes with equal wrong answers in one spelling, so that a vote does not depend on spelling."""
    found: dict[str, list[Outcome]] = {}
    for problem, outcomes in evaluation.items():
        wrong = [o.predicted for o in outcomes if not o.correct and o.predicted is not None]
        spelling = dict(zip(wrong, pooled(wrong), strict=True))
        found[problem] = [Outcome(o.correct, spelling.get(o.predicted or "", o.predicted)) for o in outcomes]
    return found


def summarize(samples: Sequence[Sample]) -> dict[str, Any]:
    """The summary of the samples of one set. ValueError if every sample is an outage."""
    evaluation = as_evaluation(samples)
    accuracy, votes = avg_at_k(evaluation), with_pooled_answers(evaluation)
    most = min(len(outcomes) for outcomes in evaluation.values())
    subsets = 1000 if len(evaluation) <= 100 else 200
    return {
        "problems": len(evaluation),
        "samples": sum(len(outcomes) for outcomes in evaluation.values()),
        "samples_per_problem": most,
        "void": sum(sample.outage for sample in samples),
        "accuracy": accuracy.value,
        "interval": [accuracy.interval.low, accuracy.interval.high],
        "bootstrap": [accuracy.bootstrap.low, accuracy.bootstrap.high],
        "pass_at": {str(k): _estimate(pass_at_k(evaluation, k)) for k in range(1, most + 1)},
        "maj_at": {str(k): _estimate(maj_at_k(votes, k, num_subsets=subsets)) for k in _doubling(most)},
        "variance": asdict(variance_split(evaluation)),
        "reasons": dict(sorted(Counter(sample.reason for sample in samples).items())),
        "behaviour": asdict(measure(samples)),
        "purposes": purposes(samples),
        "tokens": sum(sample.num_tokens for sample in samples),
        "samples_digest": samples_digest(samples),
    }


def purposes(samples: Sequence[Sample]) -> dict[str, int]:
    """The number of executed blocks of each purpose."""
    pairs = (pair for sample in samples for pair in zip(sample.calls, sample.words_between, strict=False))
    tally = Counter(classify(call.code, before).value for call, before in pairs if call.executed)
    return dict(sorted(tally.items()))


def samples_digest(samples: Sequence[Sample]) -> str:
    """sha256 over samples and their grades; times are left out, so equal samples have equal digests."""
    digest = hashlib.sha256()
    for sample in sorted(samples, key=lambda sample: sample.key):
        calls = [[call.code, call.status, call.observation] for call in sample.calls]
        content = [*sample.key, sample.text, list(sample.response_ids), calls, sample.reason]
        digest.update(json.dumps(content).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "interval": [estimate.interval.low, estimate.interval.high],
        "bootstrap": [estimate.bootstrap.low, estimate.bootstrap.high],
    }


def _doubling(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    powers = [1 << exponent for exponent in range(most.bit_length()) if 1 << exponent <= most]
    return sorted({*powers, most})
