"""Housekeeping of the artifact store: list, show, lineage, compare, verify, remove what nothing refers to, pin.

An artifact is named by its location or the start of it (checkpoint/3f9c), the start of its digest, a tag (promoted), or
<run>/<stage>/<output> (demo/rl-2/checkpoint). A mistake ends in one line and exit code 2, damage in exit code 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from rich.console import Console

from flows.commands import artifact_tables as tables
from tasks.shared.artifacts import ArtifactError, ArtifactRef, Manifest, Store
from tasks.shared.artifacts.lineage import lineage, made_from
from tasks.shared.reporting.nights import what_changed
from tasks.shared.runs.collection import Policy, collect, read_all, references
from tasks.shared.runs.record import RunRecords
from tasks.shared.runs.tags import Pins, Tags

Answer = tuple[Any, Callable[[Console], None], int]  # JSON, function that prints for people, exit code


def find(store: Store, name: str) -> ArtifactRef:
    """Return the artifact of that name, see above. Raises ValueError if there is none, or more than one."""
    run, _, rest = name.partition("/")
    label, _, output = rest.rpartition("/")
    if label and run in RunRecords(store.root).names():
        return RunRecords(store.root).read(run).output(label, output)
    tagged = Tags(store.root).current(name) if "/" not in name else None
    if tagged is not None:
        return tagged.checkpoint
    found = [
        path for path in store.locations() if path.startswith(name) or path.partition("/")[2].startswith(name)
    ]
    if not found:
        raise ValueError(f"artifact '{name}': none such in {store.root}; see tirflow artifacts ls")
    if len(found) > 1:
        some = f"{len(found)} artifacts begin so in {store.root}: {', '.join(found[:3])}"
        raise ValueError(f"artifact '{name}': {some}; write more of the name")
    return store.read(found[0]).ref


def ls(store: Store, kind: str | None = None) -> Answer:
    """List every artifact, or those of a kind, the newest first, and what refers to it."""
    manifests, damaged = read_all(store)
    found = references(store.root, manifests, Policy())
    chosen = [m for m in manifests.values() if kind in (None, m.kind)]
    chosen.sort(key=lambda manifest: manifest.created, reverse=True)
    rows = [_headline(manifest) | {"wanted_by": found.get(manifest.location, [])} for manifest in chosen]
    content = {"artifacts": rows, "damaged": damaged}
    return content, lambda console: tables.ls(console, rows, damaged), int(bool(damaged))


def _headline(manifest: Manifest) -> dict[str, Any]:
    return {
        "location": manifest.location,
        "kind": manifest.kind,
        "stage": manifest.provenance.stage,
        "bytes": sum(entry.size for entry in manifest.files),
        "files": len(manifest.files),
        "created": manifest.created,
    }


def show(store: Store, artifact: str) -> Answer:
    """Show an artifact: files, metrics, provenance, and what was made from it."""
    ref = find(store, artifact)
    manifest = store.manifest(ref)
    users = [other.location for other in made_from(store, ref.location)]
    content = asdict(manifest) | {"location": ref.location, "place": store.describe(ref), "made_into": users}
    return content, lambda console: tables.show(console, content), 0


def walk_back(store: Store, artifact: str) -> Answer:
    """Show what an artifact was made from, back to the problems."""
    ref = find(store, artifact)
    found = lineage(store, ref)
    content = [
        _headline(manifest) | {"inputs": {name: i.location for name, i in manifest.provenance.inputs.items()}}
        if manifest
        else {"location": parent.location, "kind": parent.kind, "gone": True}
        for parent, manifest in found.items()
    ]
    return content, lambda console: tables.lineage(console, ref, found), 0


def compare(store: Store, before: str, after: str) -> Answer:
    """Show what differs between two artifacts."""
    first, second = (store.manifest(find(store, name)) for name in (before, after))
    old, new = ({entry.path: entry.sha256 for entry in manifest.files} for manifest in (first, second))
    metrics = {
        name: [first.metrics.get(name), second.metrics.get(name)]
        for name in first.metrics | second.metrics
        if first.metrics.get(name) != second.metrics.get(name)
    }
    content = {
        "before": first.location,
        "after": second.location,
        "equal_content": first.digest == second.digest,
        "provenance": what_changed(first, second),
        "files": {path: _change(old.get(path), new.get(path)) for path in sorted(old | new)},
        "metrics": metrics,
    }
    return content, lambda console: tables.compare(console, content), 0


def _change(before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return "added" if before is None else "removed"
    return "equal" if before == after else "changed"


def verify(store: Store, artifacts: Sequence[str]) -> Answer:
    """Read every byte again, of all artifacts if none is named. The exit code is 1 for damage."""
    names = [find(store, name).location for name in artifacts] or store.locations()
    damaged: dict[str, str] = {}
    for location in names:
        try:
            store.fetch(store.read(location).ref)
        except ArtifactError as error:
            damaged[location] = str(error)
    content = {"verified": len(names) - len(damaged), "damaged": damaged}
    return content, lambda console: tables.verify(console, len(names), damaged), int(bool(damaged))


def gc(store: Store, delete: bool, trainer_states: int, hours: float) -> Answer:
    """List what nothing refers to, and remove it with `delete`. Raises ValueError for impossible numbers."""
    if trainer_states < 0 or not 0 <= hours <= 1e6:
        raise ValueError("gc: --trainer-states and --hours must not be below 0, and hours at most a million")
    policy = Policy(trainer_states, timedelta(hours=hours))
    found = collect(store, policy, delete)
    content = asdict(found) | {"deleted": delete}
    content["wanted"], content["unwanted"] = (
        content.pop("referenced"),
        content.pop("unreferenced"),
    )  # published
    return content, lambda console: tables.gc(console, found, delete), int(bool(found.damaged))


def pin(store: Store, name: str, artifact: str) -> Answer:
    """Keep an artifact under a name whatever refers to it."""
    ref = find(store, artifact)
    Pins(store.root).set(name, ref)
    return {name: ref.location}, lambda console: console.print(f"{name}: {ref.location} is kept"), 0


def unpin(store: Store, name: str) -> Answer:
    """Remove a pin."""
    Pins(store.root).remove(name)
    return {}, lambda console: console.print(f"{name}: pin removed"), 0
