"""Check one evaluation of a certificate, sample by sample: problems, programs, responses, grades, intervals."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from tasks.evaluate.main import MOST_OUTAGES
from tasks.prove.evidence import Evidence, tree_differences
from tasks.prove.facts import evaluate_config
from tasks.prove.findings import GRADE, MISSING, STATED, UNDECIDED, Difference, Row, short
from tasks.prove.programs import run_again
from tasks.prove.replay import sample_name
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.config import EvaluateStage
from tasks.shared.evaluation.problems import EvaluationProblem, read_problems, sample_requests
from tasks.shared.grading import grade
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.reporting.evaluated import SUMMARY_FILE, protocol_of
from tasks.shared.reporting.samples import Sample, read_samples
from tasks.shared.reporting.summary import summarize
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.own_words import own_words
from tasks.shared.traces.trajectory import FinishReason
from tasks.shared.traces.turns import stop_ids_of

GRADED = ("correct", "reason", "predicted")


def check_evaluation(
    evidence: Evidence, name: str, ref: ArtifactRef, tell: Callable[[str], None]
) -> Iterator[Row]:
    """Check every sample of an evaluation. Yields a row for each kind of evidence.

    Raises ValueError for an evaluation that cannot be read.
    """
    config = config_of(evidence, ref)
    samples = samples_of(evidence, ref, config)
    provenance = evidence.store.manifest(ref).provenance
    problems = read_problems(evidence.place(provenance.inputs["evaluation_sets"]))
    wrong = check_problems(name, problems, provenance.seed, config, samples)
    yield Row("problems and ids of samples", len(samples), wrong)
    checkpoint = evidence.place(provenance.inputs["checkpoint"])
    tokenizer = load_tokenizer(checkpoint)
    again = run_again(name, samples, config, tokenizer, stop_ids_of(checkpoint, tokenizer), tell)
    yield Row("programs, run again", again.calls, again.programs)
    yield Row("responses: ids, mask, text", again.responses, again.records)
    tell(f"{name}: grading {len(samples)} samples again")
    integers = {(problem.set, problem.id) for problem in problems if problem.integer}
    regraded = [graded_again(sample, (sample.set, sample.problem_id) in integers) for sample in samples]
    yield Row("grades, given again", len(samples), check_grades(name, samples, regraded))
    yield Row("void samples", len(samples), check_outages(name, samples))
    yield Row("scores and intervals", 1, check_scores(evidence, name, ref, config, regraded))


def config_of(evidence: Evidence, ref: ArtifactRef) -> EvaluateStage:
    """Return the configuration of an evaluation. Raises ValueError if it cannot be read."""
    manifest = evidence.store.manifest(ref)
    missing = {"checkpoint", "evaluation_sets"} - manifest.provenance.inputs.keys()
    if missing:
        raise ValueError(f"{ref.location}: no input {sorted(missing)[0]}; this is no evaluation of tirflow")
    try:
        return evaluate_config(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        cause = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise ValueError(f"{ref.location}: its configuration cannot be read ({cause})") from None


def samples_of(evidence: Evidence, ref: ArtifactRef, config: EvaluateStage) -> list[Sample]:
    """Read the samples of an evaluation. Raises ValueError if they cannot be read or are inconsistent."""
    try:
        samples = read_samples(evidence.place(ref), config.traces.dialect)
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        cause = str(error).partition("\n")[0]
        raise ValueError(
            f"{ref.location}: cannot read its samples ({cause}); get the certificate again"
        ) from None
    for sample in samples:
        if not _is_consistent(sample):
            raise ValueError(
                f"{ref.location}: the parts of sample {sample_name(sample)} do not fit one another"
            )
    return samples


def _is_consistent(sample: Sample) -> bool:
    """Whether ids, mask, log-probs, spans and dialect fit one another, as all other checks assume."""
    length = len(sample.response_ids)
    if not len(sample.sampled) == len(sample.logprobs) == len(sample.token_ends) == length:
        return False
    places = list(chain.from_iterable((call.turn_end, call.feedback_end) for call in sample.calls))
    spans = list(chain.from_iterable(sample.feedback_spans))
    return (
        sample.dialect in DIALECTS
        and None not in sample.response_ids
        and bool(sample.answer and sample.answer.strip())
        and len(spans) == len(places)
        and places == sorted(places)
        and spans == sorted(spans)
        and all(0 <= place <= length for place in places)
        and all(0 <= place <= len(sample.text) for place in spans)
    )


def check_problems(
    name: str, problems: list[EvaluationProblem], seed: int, config: EvaluateStage, samples: list[Sample]
) -> list[Difference]:
    """Check that every sample of the protocol is there once, in order, with the problem and answer of its set."""
    k = config.evaluate.samples_per_problem
    requests = islice(sample_requests(problems, k, seed), len(samples) + 1)  # k may be any number
    differences = []
    if [request.key for request in requests] != [sample.key for sample in samples]:
        detail = (
            f"{len(samples)} samples where the protocol asks for {k * len(problems)}, or in another order"
        )
        differences.append(Difference(name, MISSING, detail))
    known = {(problem.set, problem.id): problem for problem in problems}
    dialect = config.traces.dialect
    for sample in samples:
        problem = known.get((sample.set, sample.problem_id))
        stated = (sample.problem, sample.answer, sample.family)
        where = f"{name}: {sample_name(sample)}"
        if sample.dialect != dialect:
            differences.append(Difference(where, STATED, f"dialect {sample.dialect}, not {dialect}"))
        if problem is None or stated != (problem.problem, problem.answer, problem.family):
            differences.append(Difference(where, STATED, "not the problem and answer of its set"))
    return differences


def graded_again(sample: Sample, integer: bool) -> Sample:
    """Return the sample with the grade that this grader gives it."""
    if sample.outage:
        return replace(sample, correct=False, reason="void", predicted=None)
    truncated = sample.finish is FinishReason.LENGTH
    verdict = grade(own_words(sample.turns), sample.answer, truncated, integer)
    return replace(sample, correct=verdict.correct, reason=verdict.reason.value, predicted=verdict.predicted)


def check_grades(name: str, samples: list[Sample], regraded: list[Sample]) -> list[Difference]:
    """Return the samples whose grade is different here."""
    found = []
    for sample, regrade in zip(samples, regraded, strict=True):
        if all(getattr(sample, part) == getattr(regrade, part) for part in GRADED):
            continue
        kind = UNDECIDED if "grading_error" in (sample.reason, regrade.reason) else GRADE
        stated, found_here = (f"{one.reason} ({short(one.predicted)})" for one in (sample, regrade))
        found.append(Difference(f"{name}: {sample_name(sample)}", kind, f"{stated}, here {found_here}"))
    return found


def check_scores(
    evidence: Evidence, name: str, ref: ArtifactRef, config: EvaluateStage, regraded: list[Sample]
) -> list[Difference]:
    """Check that every estimate, interval and count of the summary follows from the samples as graded here."""
    stated = json.loads((evidence.place(ref) / SUMMARY_FILE).read_text())
    sets: dict[str, list[Sample]] = {}
    for sample in regraded:
        sets.setdefault(sample.set, []).append(sample)
    derived: dict[str, Any] = {
        "sets": {problem_set: summarize(samples) for problem_set, samples in sets.items()},
        "protocol": protocol_of(config),
        "allow_unsafe": config.sandbox.allow_unsafe,
    }
    found = stated_otherwise(tree_differences(stated, json.loads(json.dumps(derived))))
    return [replace(difference, where=f"{name}: {difference.where}") for difference in found]


def check_outages(name: str, samples: list[Sample]) -> list[Difference]:
    """Check that no more samples are outages than the stage tolerates, because no estimate counts them."""
    outages = sum(sample.outage for sample in samples)
    if outages <= MOST_OUTAGES * len(samples):
        return []
    detail = f"{outages} of {len(samples)} samples are void; at most {MOST_OUTAGES:.0%} may be"
    return [Difference(name, STATED, detail)]


def stated_otherwise(lines: list[str]) -> list[Difference]:
    """Turn lines of `tree_differences` into differences."""
    parts = (line.partition(": ") for line in lines)
    return [Difference(where, STATED, detail) for where, _, detail in parts]
