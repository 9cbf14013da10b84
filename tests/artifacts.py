"""Artifacts of a few files, published as a stage would."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.shared.artifacts import ArtifactRef, Provenance, Store


def publish(
    store: Store,
    kind: str,
    content: Callable[[Path], object] | Mapping[str, str | bytes],
    inputs: Mapping[str, ArtifactRef] | None = None,
    *,
    stage: str = "test",
    config: dict[str, Any] | None = None,
    seed: int = 0,
    code: str = "",
    metrics: dict[str, Any] | None = None,
) -> ArtifactRef:
    """Publish what `content` writes into a folder, or the files that it maps to their content."""
    with store.staging(kind) as directory:
        if callable(content):
            content(directory)
        else:
            for name, text in content.items():
                path = directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return store.publish(
            kind, directory, Provenance(stage, config or {}, seed, dict(inputs or {}), code), metrics
        )
