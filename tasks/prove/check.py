"""Check a certificate: `tirflow check FILE`. Nothing in it is trusted, and its programs run only in the sandbox.

A check proves that scores, intervals and comparisons follow from the samples, that the programs print what the samples
say, that the ids are these texts, that the grades are this grader's, and that problems and checkpoint are those of the
lineage. Only `resample.py`, which needs the checkpoint, proves that the checkpoint wrote the samples.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from jinja2 import TemplateError

from tasks.prove.certify import every_file
from tasks.prove.evaluation import check_evaluation, stated_otherwise
from tasks.prove.evidence import (
    CERTIFICATE_FILE,
    REPORT_FILE,
    STORE,
    WHOLE,
    Evidence,
    has_digest,
    tree_differences,
)
from tasks.prove.facts import facts, report_html
from tasks.prove.findings import CHANGED, MISSING, STATED, Difference, Row
from tasks.shared.artifacts import ArtifactError
from tasks.shared.artifacts.manifest import MANIFEST_NAME

# Errors that files of strangers can cause. Each is reported as a difference.
UNREADABLE: tuple[type[Exception], ...] = (ValueError, LookupError, TypeError, AttributeError, OSError)
UNREADABLE += (ArithmeticError, RecursionError, pa.ArrowException, TemplateError)


def certificate_digest(evidence: Evidence) -> str:
    """Return the sha256 of `certificate.json`, which covers all other files. `certify` prints it."""
    return hashlib.sha256((evidence.directory / CERTIFICATE_FILE).read_bytes()).hexdigest()


def check(evidence: Evidence, tell: Callable[[str], None], expected: str = "") -> list[Row]:
    """Return a row for each kind of evidence. `expected` is the sha256 of the certificate, if the reader knows it.

    What cannot be read becomes a difference. Raises SandboxUnavailable if this machine cannot isolate programs.
    """
    rows = [check_files(evidence, expected), check_artifacts(evidence)]
    rows += _rows("facts", "facts", lambda: check_facts(evidence))
    merged: dict[str, Row] = {}  # of all evaluations, by kind of evidence
    for name, ref in evidence.certificate.evaluations.items():
        for row in _rows("evaluations", name, partial(check_evaluation, evidence, name, ref, tell)):
            before = merged.get(row.what, Row(row.what, 0))
            differences = [*before.differences, *row.differences]
            merged[row.what] = Row(row.what, before.checked + row.checked, differences)
    tell("rendering the report again")
    return [*rows, *merged.values(), *_rows("report", "report", lambda: [check_report(evidence)])]


def check_files(evidence: Evidence, expected: str = "") -> Row:
    """Check that every file has the size and sha256 that `certificate.json` states, and that there are no others."""
    stated = {entry.path: entry for entry in evidence.certificate.files}
    found = {entry.path: entry for entry in every_file(evidence.directory)}
    differences = []
    for path in sorted(stated.keys() | found.keys()):
        if path not in found:
            differences.append(Difference(path, MISSING, "not there"))
        elif path not in stated:
            differences.append(Difference(path, MISSING, "not stated"))
        elif stated[path] != found[path]:
            differences.append(Difference(path, CHANGED, "size or sha256 is not as stated"))
    digest = certificate_digest(evidence)
    if expected and expected != digest:
        differences.append(Difference(CERTIFICATE_FILE, STATED, f"expected {expected}, found {digest}"))
    return Row("files", len(stated), differences, f"certificate {digest}")


def check_artifacts(evidence: Evidence) -> Row:
    """Check that every manifest agrees with itself and its location, and every file with its manifest."""
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
            path, where = directory / entry.path, f"{location}/{entry.path}"
            if not path.is_file():
                if manifest.kind in WHOLE:
                    differences.append(Difference(where, MISSING, "not there"))
            elif not has_digest(path, entry.sha256):
                differences.append(Difference(where, CHANGED, "not as published"))
        known = {entry.path for entry in manifest.files} | {MANIFEST_NAME}
        found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
        differences += [
            Difference(f"{location}/{path}", MISSING, "not published") for path in sorted(found - known)
        ]
    return Row("artifacts and lineage", len(locations), differences)


def check_facts(evidence: Evidence) -> list[Row]:
    """Check that the stated facts follow from the artifacts. Decontamination and comparisons have their own rows."""
    certificate = evidence.certificate
    derived = json.loads(json.dumps(facts(evidence.store, certificate.evaluations, certificate.name)))
    stated = dict(certificate.facts)
    removal, comparisons = stated.pop("decontamination", None), stated.pop("comparisons", None)
    removal_lines = tree_differences(removal, derived.pop("decontamination"), "decontamination")
    comparison_lines = tree_differences(comparisons, derived.pop("comparisons"), "comparisons")
    num_removals = len(removal) if isinstance(removal, list) else 0
    sets = comparisons.values() if isinstance(comparisons, dict) else ()
    num_comparisons = sum(len(pairs) for pairs in sets if isinstance(pairs, dict))
    others = stated_otherwise(tree_differences(stated, derived))
    return [
        Row("checkpoint, seed, protocol, digests", len(derived), others),
        Row("decontamination, done again", num_removals, stated_otherwise(removal_lines), _note(removal)),
        Row("comparisons", num_comparisons, stated_otherwise(comparison_lines)),
    ]


def check_report(evidence: Evidence) -> Row:
    """Check that the report equals the one that is rendered from these artifacts."""
    rendered = report_html(evidence.store, evidence.certificate.evaluations)
    stored = (evidence.directory / REPORT_FILE).read_text(encoding="utf-8")
    detail = "not what this version makes of the artifacts"
    return Row("report", 1, [] if rendered == stored else [Difference(REPORT_FILE, CHANGED, detail)])


def _rows(what: str, where: str, rows: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """Yield rows. If they cannot be derived from the certificate, the last one has the cause."""
    try:
        yield from rows()
    except UNREADABLE as error:
        yield Row(what, 1, [Difference(where, CHANGED, f"cannot be checked: {_message(error)}")])


def _message(error: Exception) -> str:
    line = str(error).partition("\n")[0].partition("; delete")[0]
    return line if isinstance(error, ValueError) and line else f"{type(error).__name__} {line}"


def _note(stated: Any) -> str:
    """Describe the stated decontamination in words."""
    if not isinstance(stated, list) or not stated:
        return "no training problems in the lineage"
    return "; ".join(
        f"{entry.get('removed')} removed, {entry.get('kept_that_overlap')} of {entry.get('kept')} kept share "
        f"{entry.get('words')} words"
        if entry.get("in_store")
        else f"{entry.get('problems')} was no longer in the store"
        for entry in stated
    )
