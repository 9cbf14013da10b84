"""A published evaluation: writes it, and reads it for nights, the promotion gate and the report.

samples.parquet, summary.json, and under `circumstances/` the files that may differ between equal evaluations: seconds,
versions, host.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks.shared.artifacts import VOLATILE, ArtifactRef, Manifest, Store
from tasks.shared.config import EvaluateStage
from tasks.shared.estimates.accuracy import Evaluation, Outcome
from tasks.shared.reporting.nights import what_changed
from tasks.shared.reporting.samples import SAMPLES_FILE, Sample, write_samples
from tasks.shared.traces.trajectory import FinishReason

COLUMNS = ["set", "problem_id", "finish", "correct", "predicted"]
# the parts of a protocol in which two evaluations must agree to be comparable
SAMPLED_AS = ("dialect", "max_calls", "max_response_tokens", "samples_per_problem", "temperature", "top_p")
SUMMARY_FILE, RUN_FILE = "summary.json", f"{VOLATILE}/run.json"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation, without its texts."""

    manifest: Manifest
    summary: Mapping[str, Any]
    volatile: Mapping[str, Any]  # sampling_seconds, sampled_now, surroundings
    sets: Mapping[str, Evaluation]  # outcomes without outages, by problem


def protocol_of(config: EvaluateStage) -> dict[str, Any]:
    """How samples are taken, as the summary records it."""
    endpoint = config.evaluate.endpoint
    served = {"endpoint": endpoint.model_dump(include={"model", "base_url"})} if endpoint.is_asked else {}
    return config.evaluate.model_dump(mode="json", exclude={"endpoint"}) | {
        "dialect": config.traces.dialect,
        "max_calls": config.traces.max_calls,
        "max_response_tokens": config.generation.max_response_tokens,
        **served,
    }


def write_evaluation(
    directory: Path, samples: Sequence[Sample], summary: Mapping[str, Any], volatile: Mapping[str, Any]
) -> None:
    """Write the files of an evaluation into `directory`."""
    write_samples(directory, samples)
    (directory / SUMMARY_FILE).write_text(json.dumps(summary, indent=1))
    (directory / RUN_FILE).write_text(json.dumps(volatile, indent=1))


def read_evaluated(store: Store, ref: ArtifactRef) -> Evaluated:
    """Read an evaluation artifact. ArtifactError if it is missing or damaged, ValueError if it is another kind."""
    if ref.kind != "evaluation":
        raise ValueError(f"{ref.location}: a {ref.kind}, not an evaluation")
    directory = store.fetch(ref)
    sets: dict[str, dict[str, list[Outcome]]] = {}
    for row in pq.read_table(directory / SAMPLES_FILE, columns=COLUMNS).to_pylist():
        if row["finish"] != FinishReason.SANDBOX_FAILURE.value:
            outcome = Outcome(row["correct"], row["predicted"])
            sets.setdefault(row["set"], {}).setdefault(row["problem_id"], []).append(outcome)
    summary, volatile = (json.loads((directory / name).read_text()) for name in (SUMMARY_FILE, RUN_FILE))
    return Evaluated(store.manifest(ref), summary, volatile, sets)


def shared_sets(before: Evaluated, after: Evaluated) -> list[tuple[str, Evaluation, Evaluation]]:
    """Sets that can be compared in pairs: (name, before, after), both with the problems that have samples in both.

    Empty if the problems of the two differ, because a difference over different problems means nothing.
    """
    if _input(before.manifest, "evaluation_sets") != _input(after.manifest, "evaluation_sets"):
        return []
    found: list[tuple[str, Evaluation, Evaluation]] = []
    for name, first in before.sets.items():
        second = after.sets.get(name, {})
        if both := [key for key in first if key in second]:
            found.append((name, {key: first[key] for key in both}, {key: second[key] for key in both}))
    return found


def protocol_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The differences of two sampling protocols, such as "temperature 1.0 and 0.0"; "" if they agree.

    A key that one summary lacks is no difference.
    """
    first, second = (summary.get("protocol", {}) for summary in (before, after))
    differing = [key for key in SAMPLED_AS if key in first and key in second and first[key] != second[key]]
    return ", ".join(f"{key} {first[key]} and {second[key]}" for key in differing)


def unexpected_change(before: Evaluated, after: Evaluated) -> str | None:
    """Why the same checkpoint with the same seed gave different samples, in one line; None if it did not.

    Names every difference of the two manifests and of their environment versions.
    """
    inputs = [
        [_input(side.manifest, name) for name in ("checkpoint", "evaluation_sets")]
        for side in (before, after)
    ]
    seeds = [side.manifest.provenance.seed for side in (before, after)]
    if inputs[0] != inputs[1] or "" in inputs[0] or seeds[0] != seeds[1]:
        return None
    differing = [
        name
        for name, values in before.summary["sets"].items()
        if values["samples_digest"] != after.summary["sets"].get(name, {}).get("samples_digest")
    ]
    if not differing:
        return None
    versions = (side.volatile["surroundings"] for side in (before, after))
    nothing = "nothing that is recorded: suspect the hardware or a nondeterministic engine"
    changed = "; ".join(what_changed(before.manifest, after.manifest, *versions)) or nothing
    return f"same checkpoint and seed, other samples on {', '.join(differing)}; what changed: {changed}"


def _input(manifest: Manifest, name: str) -> str:
    ref = manifest.provenance.inputs.get(name)
    return "" if ref is None else ref.digest
