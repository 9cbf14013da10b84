"""A stage's key, which is equal for equal work, and its seed."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.code_digest import code_digest


def derive_seed(seed: int, label: str) -> int:
    """Derive a stage's own seed, 0 <= seed < 2**31, from the recipe's seed and a label."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{label}".encode()).digest()[:4], "big") >> 1


def key_parts(
    stage: str,
    config: dict[str, Any],
    inputs: dict[str, ArtifactRef],
    seed: int,
    environment_versions: str,
    files: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """Return everything that the outcome of a stage depends on, as JSON values."""
    return {
        "stage": stage,
        "code": code_digest(stage),
        "surroundings": environment_versions,
        "config": config,
        "inputs": {name: [ref.kind, ref.digest] for name, ref in inputs.items()},
        "seed": seed,
        "files": [_file_digest(path) for path in files],
    }


def work_key(parts: dict[str, Any]) -> str:
    """Return the sha256 over the parts, as hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    """Return the sha256 over a file or the files of a folder. A missing file is an error of the stage itself."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
