"""What makes work the same: a stage's key and seed."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.code_digest import code_digest


def derive_seed(seed: int, label: str) -> int:
    """A stage's own seed, 0 <= seed < 2**31, from the recipe's and the label of its use."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{label}".encode()).digest()[:4], "big") >> 1


def key_parts(
    stage: str,
    config: dict[str, Any],
    inputs: dict[str, ArtifactRef],
    seed: int,
    environment_versions: str,
    files: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """Everything that the outcome of a stage depends on, as JSON has it."""
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
    """sha256, as hex, over the parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    """sha256 of a file, or over the files of a folder; of nothing if it is missing (the stage says so itself)."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
