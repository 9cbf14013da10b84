"""Go through a certificate: `tirflow check FILE`. Nothing in it is believed, and its programs run in the sandbox alone.

What a check proves: the scores, intervals and comparisons follow from these samples; the programs print what the
samples say, the ids are these texts, the grades are this grader's; problems, checkpoint and training problems are those
of the lineage. That this checkpoint said these things is proved by `resample.py` alone, which needs it.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from tasks.prove.certify import every_file
from tasks.prove.evaluation import Tally, check_evaluation, stated_otherwise
from tasks.prove.evidence import CERTIFICATE_FILE, REPORT_FILE, STORE, WHOLE, Evidence, tree_differences
from tasks.prove.facts import facts, report_html
from tasks.prove.findings import CHANGED, MISSING, STATED, Difference, Row
from tasks.shared.artifacts import ArtifactError
from tasks.shared.artifacts.manifest import MANIFEST_NAME

# What strangers can make of files that are read here: each is told as a difference.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, pa.ArrowException)


def certificate_digest(evidence: Evidence) -> str:
    """sha256 of `certificate.json`, which names all the rest: what `certify` printed."""
    return hashlib.sha256((evidence.directory / CERTIFICATE_FILE).read_bytes()).hexdigest()


def check(evidence: Evidence, tell: Callable[[str], None], expected: str = "") -> list[Row]:
    """A row for everything that was looked at. `expected`: the sha256 of the certificate that is meant.

    What cannot be read is a row that says so. SandboxUnavailable where this machine cannot isolate programs.
    """
    files = check_files(evidence, expected)
    artifacts = check_artifacts(evidence)
    rows = [files, artifacts]
    rows += _derived("facts", lambda: check_facts(evidence))
    tally = Tally()
    for name, ref in evidence.certificate.evaluations.items():
        try:
            check_evaluation(evidence, name, ref, tally, tell)
        except UNREADABLE as error:
            tally.add("evaluations", 1, [Difference(name, CHANGED, f"cannot be checked: {_said(error)}")])
    rows += tally.rows()
    tell("the report is made again")
    return rows + _derived("report", lambda: [check_report(evidence)])


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
            Row(
                what,
                _count(certificate.facts.get(key)),
                stated_otherwise(lines),
                _note(key, certificate.facts),
            )
        )
    rows.insert(
        0,
        Row(
            "checkpoint, seed, protocol, digests", len(here), stated_otherwise(tree_differences(stated, here))
        ),
    )
    return rows


def check_report(evidence: Evidence) -> Row:
    """The report says what these artifacts say: it is made again, and equal."""
    made = report_html(evidence.store, evidence.certificate.evaluations)
    there = (evidence.directory / REPORT_FILE).read_text(encoding="utf-8")
    detail = "not what this version makes of the artifacts"
    return Row("report", 1, [] if made == there else [Difference(REPORT_FILE, CHANGED, detail)])


def _derived(what: str, rows: Callable[[], list[Row]]) -> list[Row]:
    """Rows that need whole artifacts; one row that says why where they are not."""
    try:
        return rows()
    except UNREADABLE as error:
        return [Row(what, 0, [Difference(what, CHANGED, f"cannot be derived: {_said(error)}")])]


def _said(error: Exception) -> str:
    line = str(error).partition("\n")[0].partition("; delete")[0]
    return line if isinstance(error, ValueError) and line else f"{type(error).__name__} {line}"


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
