"""Artifacts: directories with a manifest, published whole or not at all, checked when read."""

from tasks.shared.artifacts.manifest import (
    VOLATILE,
    ArtifactError,
    ArtifactRef,
    FileEntry,
    Manifest,
    Provenance,
)
from tasks.shared.artifacts.store import Store

__all__ = ["VOLATILE", "ArtifactError", "ArtifactRef", "FileEntry", "Manifest", "Provenance", "Store"]
