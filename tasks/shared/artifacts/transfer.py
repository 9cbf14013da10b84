"""Files to and from an object store: several at a time, large ones in parts, those that are there already left out.

An artifact's location names its content, and an object appears whole or not at all: a file of the right size under the
right name was put there by an earlier attempt. That does not hold for circumstances, which are no part of the content.
What is downloaded is checked against its sha256 by whoever reads it.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from upath import UPath

from tasks.shared.artifacts.manifest import CIRCUMSTANCES, FileEntry

Item = TypeVar("Item")
CONNECTIONS = 8
PART_BYTES = 32 << 20


def upload(directory: Path, target: UPath, paths: Sequence[Path]) -> None:
    """Put files of a local directory under `target`, with the same relative names."""

    def put(path: Path) -> None:
        relative = path.relative_to(directory)
        there = target / relative.as_posix()
        if relative.parts[0] == CIRCUMSTANCES or not _has_size(there, path.stat().st_size):
            there.fs.put_file(str(path), there.path)

    _together(put, paths)


def download(source: UPath, directory: Path, entries: Sequence[FileEntry]) -> None:
    """Get files below `source` into a local directory; whole files of an earlier attempt stay as they are."""
    missing = [entry for entry in entries if not _is_whole(directory / entry.path, entry.size)]
    for entry in missing:
        target = _partial(directory / entry.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.truncate(entry.size)

    def get(part: tuple[FileEntry, int]) -> None:
        entry, start = part
        there = source / entry.path
        content = there.fs.cat_file(there.path, start=start, end=min(start + PART_BYTES, entry.size))
        with _partial(directory / entry.path).open("r+b") as file:
            file.seek(start)
            file.write(content)

    _together(get, [(entry, start) for entry in missing for start in range(0, entry.size, PART_BYTES)])
    for entry in missing:
        os.replace(_partial(directory / entry.path), directory / entry.path)


def _together(work: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Do the work on every item, several at a time; the first error is raised once the others have ended."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for done in [pool.submit(work, item) for item in items]:
            done.result()


def _has_size(path: UPath, size: int) -> bool:
    try:
        return path.fs.info(path.path)["size"] == size
    except FileNotFoundError:
        return False


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
