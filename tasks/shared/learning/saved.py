"""Checkpoints to resume from: whole under their final name, their bytes known by sha256: damage is never resumed from.

They lie in a scratch directory for days, and torch reads a tensor with a flipped bit without a word.
"""

import json
import shutil
from pathlib import Path

from tasks.shared.artifacts.manifest import scan

SUMS = "sums.json"


def checkpoints_in(directory: Path) -> dict[int, Path]:
    """Whole checkpoints by step."""
    return {int(path.name.removeprefix("step-")): path for path in directory.glob("step-*")}


def complete(partial: Path, step: int) -> None:
    """Give a written checkpoint its sums and final name, then drop older ones; killed here, one of them is whole."""
    sums = {entry.path: entry.sha256 for entry in scan(partial) if entry.path != SUMS}
    (partial / SUMS).write_text(json.dumps(sums, indent=1))
    older = checkpoints_in(partial.parent)
    if step in older:  # a critic's, whose policy was not saved any more: the step was done again
        shutil.rmtree(older[step])
    partial.rename(partial.with_name(f"step-{step}"))
    for number, path in older.items():
        if number != step:
            shutil.rmtree(path)


def require_whole(checkpoint: Path) -> None:
    """ValueError, naming the file and the remedy, if a byte is not as it was written."""
    path = checkpoint / SUMS
    try:
        sums = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        raise ValueError(f"{path}: missing or damaged; {_remedy(checkpoint)}") from None
    found = {entry.path: entry.sha256 for entry in scan(checkpoint) if entry.path != SUMS}
    for name in sorted(sums.keys() | found.keys()):
        if sums.get(name) != found.get(name):
            raise ValueError(
                f"{checkpoint / name}: changed since it was saved (sha256 differs); {_remedy(checkpoint)}"
            )


def _remedy(checkpoint: Path) -> str:
    return f"delete {checkpoint} and run again: the stage begins at its inputs"
