"""Go through a certificate: `tirflow check FILE`. Nothing in it is believed, and its programs run in the sandbox alone.

What a check proves: the scores, intervals and comparisons follow from these samples; the programs print what the
samples say, the ids are these texts, the grades are this grader's; problems, checkpoint and training problems are those
of the lineage. That this checkpoint said these things is proved by `resample.py` alone, which needs it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from tasks.evaluate.main import MOST_VOID, protocol_of
from tasks.evaluate.problems import read_problems, wanted_samples
from tasks.prove.certify import every_file
from tasks.prove.evidence import (
    CERTIFICATE_FILE,
    REPORT_FILE,
    STORE,
    WHOLE,
    Evidence,
    require_bounded,
    tree_differences,
)
from tasks.prove.facts import evaluate_config, facts, report_html
from tasks.prove.findings import (
    CHANGED,
    GRADE,
    MISSING,
    STATED,
    UNDECIDED,
    Difference,
    Row,
    short,
)
from tasks.prove.programs import Replayed, run_again
from tasks.shared.artifacts import ArtifactError, ArtifactRef
from tasks.shared.artifacts.manifest import MANIFEST_NAME
from tasks.shared.checkpoints import load_tokenizer
from tasks.shared.config import EvaluateStage
from tasks.shared.grading import grade
from tasks.shared.reporting.evaluated import SUMMARY_FILE
from tasks.shared.reporting.samples import Sample, read_samples
from tasks.shared.reporting.summary import summarize
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.own_words import own_words
from tasks.shared.traces.trajectory import FinishReason
from tasks.shared.traces.turns import stop_ids_of

Tell = Callable[[str], None]
GRADED = ("correct", "reason", "predicted")


def certificate_digest(evidence: Evidence) -> str:
    """sha256 of `certificate.json`, which names all the rest: what `certify` printed."""
    return hashlib.sha256((evidence.directory / CERTIFICATE_FILE).read_bytes()).hexdigest()


def check(evidence: Evidence, tell: Tell, expected: str = "") -> list[Row]:
    """A row for everything that was looked at. `expected`: the sha256 of the certificate that is meant.

    ValueError for what cannot be looked at: an evaluation that is unreadable, or asks for too much; SandboxUnavailable
    where this machine cannot isolate programs.
    """
    files = check_files(evidence, expected)
    artifacts = check_artifacts(evidence)
    rows = [files, artifacts]
    rows += _derived(evidence, "facts", lambda: check_facts(evidence))
    replayed, problems, grades, scores, void = Replayed(), [], [], [], []
    total = 0
    for name, ref in evidence.certificate.evaluations.items():
        config = config_of(evidence, ref)
        samples = samples_of(evidence, ref, config)
        total += len(samples)
        tokenizer_at = evidence.place(evidence.store.manifest(ref).provenance.inputs["checkpoint"])
        tokenizer = load_tokenizer(tokenizer_at)
        ends = stop_ids_of(tokenizer_at, tokenizer)
        problems += check_problems(evidence, name, ref, config, samples)
        again = run_again(name, samples, config, tokenizer, ends, tell)
        replayed.calls += again.calls
        replayed.responses += again.responses
        replayed.programs += again.programs
        replayed.records += again.records
        tell(f"{name}: {len(samples)} samples are graded again")
        integers = _integers(evidence, ref)
        regraded = [
            graded_here(sample, integers.get((sample.set, sample.problem_id), False)) for sample in samples
        ]
        grades += check_grades(name, samples, regraded)
        scores += check_scores(evidence, name, ref, config, regraded)
        void += check_void(name, samples)
    rows += [
        Row("problems and ids of samples", total, problems),
        Row("programs, run again", replayed.calls, replayed.programs),
        Row("responses: ids, mask, text", replayed.responses, replayed.records),
        Row("grades, given again", total, grades),
        Row("void samples", total, void),
        Row("scores and intervals", len(evidence.certificate.evaluations), scores),
    ]
    tell("the report is made again")
    rows += _derived(evidence, "report", lambda: [check_report(evidence)])
    return rows


def check_files(evidence: Evidence, expected: str = "") -> Row:
    """Every file has the size and sha256 that `certificate.json` states, and there are no others."""
    stated = {entry.path: entry for entry in evidence.certificate.files}
    found = {entry.path: entry for entry in every_file(evidence.directory)}
    differences = [
        Difference(path, CHANGED, "size or sha256 is not as stated")
        for path in sorted(stated.keys() & found.keys())
        if stated[path] != found[path]
    ]
    differences += [Difference(path, MISSING, "not there") for path in sorted(stated.keys() - found.keys())]
    differences += [Difference(path, MISSING, "not stated") for path in sorted(found.keys() - stated.keys())]
    digest = certificate_digest(evidence)
    if expected and expected != digest:
        differences.append(Difference(CERTIFICATE_FILE, STATED, f"expected {expected}, found {digest}"))
    return Row("files", len(stated), differences, f"certificate {digest}")


def check_artifacts(evidence: Evidence) -> Row:
    """Every manifest agrees with itself and with its place, every file of it that is there with the manifest."""
    store, differences, locations = evidence.store, [], evidence.store.locations()
    for location in locations:
        try:
            manifest = store.read(location)
            if manifest.location != location:
                raise ArtifactError(f"its manifest is that of {manifest.location}")
        except ArtifactError as error:
            differences.append(Difference(location, CHANGED, str(error).partition("; delete")[0]))
            continue
        directory = evidence.directory / STORE / location
        for entry in manifest.files:
            path = directory / entry.path
            if not path.is_file():
                if manifest.kind in WHOLE:
                    differences.append(Difference(f"{location}/{entry.path}", MISSING, "not there"))
                continue
            with path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
                    differences.append(Difference(f"{location}/{entry.path}", CHANGED, "not as published"))
        known = {entry.path for entry in manifest.files} | {MANIFEST_NAME}
        there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
        differences += [
            Difference(f"{location}/{path}", MISSING, "not published") for path in sorted(there - known)
        ]
    return Row("artifacts and lineage", len(locations), differences)


def check_facts(evidence: Evidence) -> list[Row]:
    """What the certificate states is what its artifacts say, decontamination and comparisons by themselves."""
    certificate = evidence.certificate
    here = json.loads(json.dumps(facts(evidence.store, certificate.evaluations, certificate.name)))
    stated = dict(certificate.facts)
    rows = []
    own = {"decontamination": "decontamination, done again", "comparisons": "comparisons"}
    for key, what in own.items():
        lines = tree_differences(stated.pop(key, None), here.pop(key), key)
        rows.append(
            Row(what, _count(certificate.facts.get(key)), _stated(lines), _note(key, certificate.facts))
        )
    rows.insert(
        0, Row("checkpoint, seed, protocol, digests", len(here), _stated(tree_differences(stated, here)))
    )
    return rows


def check_report(evidence: Evidence) -> Row:
    """The report says what these artifacts say: it is made again, and equal."""
    made = report_html(evidence.store, evidence.certificate.evaluations)
    there = (evidence.directory / REPORT_FILE).read_text(encoding="utf-8")
    detail = "not what this version makes of the artifacts"
    return Row("report", 1, [] if made == there else [Difference(REPORT_FILE, CHANGED, detail)])


def config_of(evidence: Evidence, ref: ArtifactRef) -> EvaluateStage:
    """The sections an evaluation was made with; ValueError, one line, if they cannot be read."""
    manifest = evidence.store.manifest(ref)
    missing = {"checkpoint", "evaluation_sets"} - manifest.provenance.inputs.keys()
    if missing:
        raise ValueError(
            f"{ref.location}: no {sorted(missing)[0]} among its inputs; it is no evaluation of tirflow"
        )
    try:
        return evaluate_config(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"{ref.location}: its configuration cannot be read ({key}: {first['msg']})"
        ) from None


def samples_of(evidence: Evidence, ref: ArtifactRef, config: EvaluateStage) -> list[Sample]:
    """The samples of an evaluation as they lie there, checked to be samples at all; ValueError, one line, if not."""
    place = evidence.place(ref)
    try:
        for table in place.rglob("*.parquet"):
            require_bounded(table)
        samples = read_samples(place, config.traces.dialect)
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(
            f"{ref.location}: its samples cannot be read ({said}); get the certificate again"
        ) from None
    for sample in samples:
        if not _is_whole(sample):
            key = f"{sample.set}/{sample.problem_id}/{sample.sample}"
            raise ValueError(f"{ref.location}: sample {key} is no sample: its parts do not fit one another")
    return samples


def _is_whole(sample: Sample) -> bool:
    """Whether ids, mask, log-probs, places and dialect fit one another, as everything else takes for granted."""
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
    evidence: Evidence, name: str, ref: ArtifactRef, config: EvaluateStage, samples: list[Sample]
) -> list[Difference]:
    """Every sample that the protocol asks for is there once, in order, with the problem and answer of its set."""
    made = evidence.store.manifest(ref).provenance
    problems = read_problems(evidence.place(made.inputs["evaluation_sets"]))
    wanted = list(wanted_samples(problems, config.evaluate.samples_per_problem, made.seed))
    differences = []
    if [want.key for want in wanted] != [sample.key for sample in samples]:
        detail = f"{len(samples)} samples where the protocol asks for {len(wanted)}, or in another order"
        differences.append(Difference(name, MISSING, detail))
    known = {(problem.set, problem.id): problem for problem in problems}
    for sample in samples:
        problem = known.get((sample.set, sample.problem_id))
        said = (sample.problem, sample.answer, sample.family)
        where = f"{name}: {sample.set}/{sample.problem_id}/{sample.sample}"
        if sample.dialect != config.traces.dialect:
            differences.append(
                Difference(where, STATED, f"dialect {sample.dialect}, not {config.traces.dialect}")
            )
        if problem is None or said != (problem.problem, problem.answer, problem.family):
            differences.append(Difference(where, STATED, "not the problem and answer of its set"))
    return differences


def _integers(evidence: Evidence, ref: ArtifactRef) -> dict[tuple[str, str], bool]:
    """Which problems only an integer literal answers."""
    sets = evidence.store.manifest(ref).provenance.inputs["evaluation_sets"]
    return {(problem.set, problem.id): problem.integer for problem in read_problems(evidence.place(sets))}


def graded_here(sample: Sample, integer: bool) -> Sample:
    """The same sample with the grade that it is given here."""
    if sample.void:
        return replace(sample, correct=False, reason="void", predicted=None)
    truncated = sample.finish is FinishReason.LENGTH
    verdict = grade(own_words(sample.turns), sample.answer, truncated, integer)
    return replace(sample, correct=verdict.correct, reason=verdict.reason.value, predicted=verdict.predicted)


def check_grades(name: str, samples: list[Sample], regraded: list[Sample]) -> list[Difference]:
    """Samples that are graded otherwise here."""
    found = []
    for sample, here in zip(samples, regraded, strict=True):
        if all(getattr(sample, part) == getattr(here, part) for part in GRADED):
            continue
        kind = UNDECIDED if "grading_error" in (sample.reason, here.reason) else GRADE
        detail = f"{sample.reason} ({short(sample.predicted)}), here {here.reason} ({short(here.predicted)})"
        found.append(Difference(f"{name}: {sample.set}/{sample.problem_id}/{sample.sample}", kind, detail))
    return found


def check_scores(
    evidence: Evidence, name: str, ref: ArtifactRef, config: EvaluateStage, regraded: list[Sample]
) -> list[Difference]:
    """Every estimate, interval and count of the summary follows from the samples as they are graded here."""
    stated = json.loads((evidence.place(ref) / SUMMARY_FILE).read_text())
    sets: dict[str, list[Sample]] = {}
    for sample in regraded:
        sets.setdefault(sample.set, []).append(sample)
    here: dict[str, Any] = {
        "sets": {problem_set: summarize(samples) for problem_set, samples in sets.items()},
        "protocol": protocol_of(config),
        "allow_unsafe": config.sandbox.allow_unsafe,
    }
    return _stated(tree_differences(stated, json.loads(json.dumps(here)), f"{name}:"))


def check_void(name: str, samples: list[Sample]) -> list[Difference]:
    """No more samples are void than a stage lets pass: a void sample is in no estimate."""
    void = sum(sample.void for sample in samples)
    if void <= MOST_VOID * len(samples):
        return []
    return [
        Difference(name, STATED, f"{void} of {len(samples)} samples are void; at most {MOST_VOID:.0%} may be")
    ]


def _derived(evidence: Evidence, what: str, rows: Callable[[], list[Row]]) -> list[Row]:
    """Rows that need whole artifacts; one row that says why where they are not."""
    try:
        return rows()
    except (ArtifactError, pa.ArrowException, KeyError, TypeError, OSError, ValueError) as error:
        said = str(error).partition("\n")[0].partition("; delete")[0]
        return [Row(what, 0, [Difference(what, CHANGED, f"cannot be derived: {said}")])]


def _stated(lines: list[str]) -> list[Difference]:
    return [Difference(line.partition(": ")[0], STATED, line.partition(": ")[2]) for line in lines]


def _count(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(inner) for inner in value.values() if isinstance(inner, dict))
    return len(value) if isinstance(value, list) else 0


def _note(key: str, stated: dict[str, Any]) -> str:
    """What decontamination has found, in words."""
    if key != "decontamination":
        return ""
    found = stated.get(key)
    if not isinstance(found, list) or not found:
        return "no training problems in the lineage"
    parts = []
    for entry in found:
        if not entry.get("in_store"):
            parts.append(f"{entry.get('problems')} was in the store no more")
            continue
        parts.append(
            f"{entry.get('removed')} taken out, {entry.get('kept_that_overlap')} of {entry.get('kept')} kept share "
            f"{entry.get('words')} words"
        )
    return "; ".join(parts)
