"""Checkpoints to resume from: complete once every rank has added its files' checksums; damaged ones are refused.

They lie in a scratch directory for days, and torch reads a tensor with a flipped bit without an error. A rank computes
the sha256 of what it writes, checks what it reads, and waits for no other rank: at 32B a checkpoint has 900 GB.
"""

import hashlib
import json
import shutil
from pathlib import Path

from tasks.shared.contract.documents import write_whole

ALL_SUMS = "sums.json"  # of every file: checkpoints made by earlier versions


def checkpoints_in(directory: Path) -> dict[int, Path]:
    """Whole checkpoints by step."""
    return {int(p.name.removeprefix("step-")): p for p in directory.glob("step-*") if is_whole(p)}


def is_whole(checkpoint: Path) -> bool:
    """True once each of the ranks that wrote it has added its sums."""
    found = [path.stem for path in checkpoint.glob("sums-*-of-*.json")]
    ranks = {int(name.rpartition("-")[2]) for name in found}
    return (checkpoint / ALL_SUMS).is_file() or (len(ranks) == 1 and len(found) == ranks.pop())


def add_sums(checkpoint: Path, sums: dict[str, str], rank: int, ranks: int) -> None:
    """Add one rank's sha256 by file name; with the last rank's the checkpoint is whole."""
    path = checkpoint / f"sums-{rank}-of-{ranks}.json"
    write_whole(path, json.dumps(sums, indent=1, sort_keys=True))


def remove_others(checkpoint: Path) -> None:
    """Remove every checkpoint beside this complete one. Several ranks may do so at once."""
    for path in checkpoint.parent.iterdir():
        if path != checkpoint and path.name.startswith(("step-", "partial-")):
            shutil.rmtree(path, ignore_errors=True)


def require_files(checkpoint: Path) -> None:
    """ValueError, naming the file and the remedy, if a file is missing or not listed."""
    written = sums_of(checkpoint).keys()
    found = {path.name for path in checkpoint.glob("*.pt")}
    for name in sorted({name for name in written if name.endswith(".pt")} ^ found):
        fault = "missing" if name in written else "not a file of this checkpoint"
        raise ValueError(f"{checkpoint / name}: {fault}; {_remedy(checkpoint)}")


def require_unchanged(path: Path) -> None:
    """ValueError, naming the file and the remedy, if a byte has changed since it was written."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if sums_of(path.parent).get(path.name) != sha256:
        raise ValueError(f"{path}: changed since it was saved (sha256 differs); {_remedy(path.parent)}")


def sums_of(checkpoint: Path) -> dict[str, str]:
    """sha256 by file name. ValueError if a list of them is damaged."""
    sums: dict[str, str] = {}
    for path in sorted(checkpoint.glob("sums*.json")):
        try:
            sums |= json.loads(path.read_text())
        except (ValueError, TypeError):
            raise ValueError(f"{path}: damaged; {_remedy(checkpoint)}") from None
    return sums


def _remedy(checkpoint: Path) -> str:
    return f"delete {checkpoint} and run again: the stage begins at its inputs"
