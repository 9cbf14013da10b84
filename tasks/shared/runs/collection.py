"""Finds the artifacts that are still referenced, and removes the others.

Runs, tags, nights and pins refer to artifacts, and running stages to their inputs and outputs. Whatever a referenced
artifact was made from is kept too, so that lineage stays complete. Trainer states are large and many: a run keeps its
last ones and the best.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tasks.shared.artifacts import ArtifactError, ArtifactRef, Manifest, Store
from tasks.shared.runs.leases import Leases
from tasks.shared.runs.record import RunRecord, RunRecords
from tasks.shared.runs.tags import Nights, Pins, Tags

TRAINER_STATE = "trainer_state"
BEST_BY = "accuracy"  # headline metric of an RL round, over its last steps


@dataclass(frozen=True, slots=True)
class Policy:
    """What is kept besides referenced artifacts."""

    trainer_states: int = 1  # number of the last ones kept of each run; the best round's is always kept
    youngest: timedelta = timedelta(hours=24)  # younger artifacts stay


@dataclass(frozen=True, slots=True)
class Unreferenced:
    """An artifact that nothing refers to."""

    location: str
    size: int  # bytes
    created: str  # ISO 8601, UTC; "" for a damaged one


@dataclass(frozen=True, slots=True)
class Collection:
    """The result of a collection."""

    referenced: dict[str, list[str]]  # location -> who refers to it
    young: list[str]  # locations of unreferenced artifacts that are too young to go
    damaged: dict[str, str]  # location -> its fault; never removed by a collection
    unreferenced: list[Unreferenced]  # removed, except in a dry run


def collect(store: Store, policy: Policy, delete: bool = False) -> Collection:
    """Find the artifacts that nothing refers to. Remove them with `delete`.

    Meanwhile no record changes and no stage begins, so no new reference appears. A stage that finishes meanwhile
    records its outputs afterwards, and notices if one of them is gone.
    """
    with RunRecords(store.root).locked(), Leases(store.root).locked():
        manifests, damaged = read_all(store)
        referenced = references(store.root, manifests, policy)
        limit = (datetime.now(UTC) - policy.youngest).isoformat(timespec="seconds")
        others = [manifest for location, manifest in manifests.items() if location not in referenced]
        young = [manifest.location for manifest in others if manifest.created > limit]
        unreferenced = [
            Unreferenced(manifest.location, sum(entry.size for entry in manifest.files), manifest.created)
            for manifest in others
            if manifest.created <= limit
        ]
        if delete:
            for artifact in unreferenced:
                store.remove(artifact.location)
    return Collection(referenced, young, damaged, unreferenced)


def references(store: str, manifests: dict[str, Manifest], policy: Policy) -> dict[str, list[str]]:
    """Map the location of every artifact that is kept to those who refer to it."""
    found: dict[str, list[str]] = {}

    def note(refs: Iterable[ArtifactRef], who: str) -> None:
        for ref in refs:
            found.setdefault(ref.location, []).append(who)

    records = RunRecords(store)
    for run in records.names():
        note(_of_run(records.read(run), policy.trainer_states), f"run {run}")
    tags, nights = Tags(store), Nights(store)
    for tag in tags.names():
        held = tags.current(tag)
        assert held is not None, tag
        note((held.checkpoint, held.evaluation_sets, held.evaluation), f"tag {tag}")
    for subject in nights.names():
        note((night.evaluation for night in nights.of(subject)), f"nights of {subject}")
    for name, pin in Pins(store).all().items():
        note((pin.artifact,), f"pin {name}")
    for lease in Leases(store).living():
        published = [manifest.location for manifest in manifests.values() if manifest.created >= lease.since]
        for location in (*lease.locations, *published):
            found.setdefault(location, []).append(f"running: {lease.holder}")
    waiting = list(found)
    while waiting:
        location = waiting.pop()
        manifest = manifests.get(location)
        for parent in manifest.provenance.inputs.values() if manifest else ():
            if parent.location not in found and parent.kind != TRAINER_STATE:
                found[parent.location] = [f"made into {location}"]
                waiting.append(parent.location)
    return found


def _of_run(record: RunRecord, trainer_states: int) -> list[ArtifactRef]:
    """List inputs and outputs of a run's stages. Of trainer states the list has the last ones and the best."""
    stages = list(record.stages.values())
    refs = [ref for stage in stages for ref in (*stage.inputs.values(), *stage.outputs.values())]
    refs = [ref for ref in refs if ref.kind != TRAINER_STATE]
    rounds = [stage for stage in stages if TRAINER_STATE in stage.outputs]  # in their order
    kept = rounds[max(0, len(rounds) - trainer_states) :]
    kept += sorted(rounds, key=lambda stage: float(stage.metrics.get(BEST_BY) or 0.0))[-1:]
    return refs + [stage.outputs[TRAINER_STATE] for stage in kept]


def read_all(store: Store) -> tuple[dict[str, Manifest], dict[str, str]]:
    """Return every artifact's manifest, and the fault of each damaged one, by location."""
    manifests: dict[str, Manifest] = {}
    damaged: dict[str, str] = {}
    for location in store.locations():
        try:
            manifests[location] = store.read(location)
        except ArtifactError as error:
            damaged[location] = str(error)
    return manifests, damaged
