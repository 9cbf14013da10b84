"""Moves files to and from an object store: several at a time, large ones in parts, existing ones not again.

An artifact's location names its content, and an object appears whole or not at all. So a file of the right size under
the right name comes from an earlier attempt. Volatile files are no part of the content, so their objects' names hold
their own sha256: hosts that publish equal work at once write different objects, and the first manifest finds its own.
Readers check the sha256 of what is downloaded.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from upath import UPath

from tasks.shared.artifacts.manifest import VOLATILE, FileEntry
from tasks.shared.artifacts.s3 import s3_sender

Item = TypeVar("Item")
CONNECTIONS = 8
PART_BYTES = 32 << 20


def upload(directory: Path, target: UPath, entries: Iterable[FileEntry]) -> None:
    """Put files of a local directory under `target`. Files of an earlier attempt are not sent again."""

    with _sender(target) as send:

        def put(entry: FileEntry) -> None:
            path = target / object_name(entry)
            try:
                is_sent = path.fs.info(path.path)["size"] == entry.size
            except FileNotFoundError:
                is_sent = False
            if not is_sent:
                send(directory / entry.path, path.path)

        _together(put, entries)


@contextmanager
def _sender(target: UPath) -> Iterator[Callable[[Path, str], None]]:
    """Yield the function that puts a local file under a path of the target's file system."""
    if target.protocol in ("s3", "s3a"):
        with s3_sender(target.fs) as send:
            yield send
    else:
        yield lambda file, path: target.fs.put_file(str(file), path)


def object_name(entry: FileEntry) -> str:
    """Return the name of a file's object below its artifact on an object store."""
    if not _is_volatile(entry):
        return entry.path
    return f"{VOLATILE}/{entry.sha256[:16]}{entry.path.removeprefix(VOLATILE)}"


def download(source: UPath, directory: Path, entries: Iterable[FileEntry]) -> None:
    """Get files below `source` into a local directory. Complete files of an earlier attempt are kept."""
    missing = [entry for entry in entries if not _is_downloaded(directory, entry)]
    for entry in missing:
        target = _partial(directory / entry.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.truncate(entry.size)

    def get(part: tuple[FileEntry, int]) -> None:
        entry, start = part
        path = source / object_name(entry)
        content = path.fs.cat_file(path.path, start=start, end=min(start + PART_BYTES, entry.size))
        with _partial(directory / entry.path).open("r+b") as file:
            file.seek(start)
            file.write(content)

    _together(get, [(entry, start) for entry in missing for start in range(0, entry.size, PART_BYTES)])
    for entry in missing:
        os.replace(_partial(directory / entry.path), directory / entry.path)


def _together(work: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Do the work on every item, several at a time. Raises the first error once all others have ended."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for done in [pool.submit(work, item) for item in items]:
            done.result()


def _is_downloaded(directory: Path, entry: FileEntry) -> bool:
    """Whether an earlier attempt has downloaded the file. The size of a volatile file does not show it."""
    path = directory / entry.path
    return path.is_file() and path.stat().st_size == entry.size and not _is_volatile(entry)


def _is_volatile(entry: FileEntry) -> bool:
    return entry.path.startswith(f"{VOLATILE}/")


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
