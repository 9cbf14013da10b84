"""A published evaluation as the nights, the gate and the report read it: manifest, summary, outcomes by set."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from tasks.shared.artifacts import ArtifactRef, Manifest, Store
from tasks.shared.estimates import Evaluation, Outcome
from tasks.shared.reporting.nights import what_changed
from tasks.shared.traces.trajectory import FinishReason

COLUMNS = ["set", "problem_id", "finish", "correct", "predicted"]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation, without its texts."""

    manifest: Manifest
    summary: Mapping[str, Any]
    sets: Mapping[str, Evaluation]  # outcomes that are not void, by problem


def read_evaluated(store: Store, ref: ArtifactRef) -> Evaluated:
    """Read an evaluation artifact. ArtifactError if it is missing or damaged, ValueError if it is another kind."""
    if ref.kind != "evaluation":
        raise ValueError(f"{ref.location}: a {ref.kind}, not an evaluation")
    directory = store.fetch(ref)
    sets: dict[str, dict[str, list[Outcome]]] = {}
    for row in pq.read_table(directory / "samples.parquet", columns=COLUMNS).to_pylist():
        if row["finish"] != FinishReason.SANDBOX_FAILURE.value:
            outcome = Outcome(row["correct"], row["predicted"])
            sets.setdefault(row["set"], {}).setdefault(row["problem_id"], []).append(outcome)
    return Evaluated(store.manifest(ref), json.loads((directory / "summary.json").read_text()), sets)


def shared_sets(before: Evaluated, after: Evaluated) -> list[tuple[str, Evaluation, Evaluation]]:
    """Sets that can be compared in pairs: (name, before, after), both cut to the problems that have valid samples.

    Empty where the two were made on other problems: a difference over different problems means nothing.
    """
    if _input(before.manifest, "evaluation_sets") != _input(after.manifest, "evaluation_sets"):
        return []
    found: list[tuple[str, Evaluation, Evaluation]] = []
    for name in before.sets:
        first, second = before.sets[name], after.sets.get(name, {})
        both = [key for key in first if key in second]
        if both:
            found.append((name, {key: first[key] for key in both}, {key: second[key] for key in both}))
    return found


def unexpected_change(before: Evaluated, after: Evaluated) -> str | None:
    """Why the same checkpoint with the same seed gave other samples, in one line; None if it did not, or was not asked.

    Names every difference of the two manifests and of the surroundings that both summaries hold.
    """
    if before.manifest.provenance.seed != after.manifest.provenance.seed or any(
        _input(before.manifest, name) != _input(after.manifest, name)
        for name in ("checkpoint", "evaluation_sets")
    ):
        return None
    differing = [
        name
        for name, values in before.summary["sets"].items()
        if values["samples_digest"] != after.summary["sets"].get(name, {}).get("samples_digest")
    ]
    if not differing:
        return None
    reasons = what_changed(
        before.manifest,
        after.manifest,
        before.summary.get("surroundings", {}),
        after.summary.get("surroundings", {}),
    )
    changed = (
        "; ".join(reasons) or "nothing that is recorded: suspect the hardware or a nondeterministic engine"
    )
    return f"same checkpoint and seed, other samples on {', '.join(differing)}; what changed: {changed}"


def _input(manifest: Manifest, name: str) -> str:
    ref = manifest.provenance.inputs.get(name)
    return "" if ref is None else ref.digest
