"""Trace an artifact back to what it was made from, and forward to what was made from it."""

from tasks.shared.artifacts.manifest import ArtifactError, ArtifactRef, Manifest
from tasks.shared.artifacts.store import Store


def lineage(store: Store, ref: ArtifactRef) -> dict[ArtifactRef, Manifest | None]:
    """Return the artifact and everything it was made from, nearest first. None: no longer in the store.

    Raises ArtifactError if the artifact itself is missing, or any manifest is damaged.
    """
    found: dict[ArtifactRef, Manifest | None] = {ref: store.manifest(ref)}
    waiting = [ref]
    while waiting:
        manifest = found[waiting.pop(0)]
        for parent in manifest.provenance.inputs.values() if manifest else ():
            if parent not in found:
                found[parent] = store.manifest(parent) if store.exists(parent) else None
                waiting.append(parent)
    return found


def made_from(store: Store, location: str) -> list[Manifest]:
    """List every artifact that had the one at `location` as an input. Damaged ones are left out."""
    found = []
    for other in store.locations():
        try:
            manifest = store.read(other)
        except ArtifactError:
            continue
        if any(ref.location == location for ref in manifest.provenance.inputs.values()):
            found.append(manifest)
    return found
