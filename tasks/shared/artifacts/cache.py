"""Local copies of an object store's artifacts, up to a size. Removes the least recently used, but none in use.

Every process that reads a copy holds a shared lock on it while it lives. The processes and containers of a host share
one cache.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.shared.artifacts.manifest import MANIFEST_NAME

PARTIAL = ".partial"


class Cache:
    """Artifacts under one local directory, by location."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root = root
        self._limit = limit_bytes
        self._in_use: dict[str, int] = {}  # location -> descriptor with the lock

    def find(self, location: str) -> Path | None:
        """Return the copy, which is kept while this process lives, or None."""
        directory = self.root / location
        if location in self._in_use and directory.is_dir():
            return directory
        try:
            descriptor = os.open(directory / MANIFEST_NAME, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not (directory / MANIFEST_NAME).exists():  # removed while this process waited for the lock
            os.close(descriptor)
            return None
        self._in_use[location] = descriptor
        os.utime(descriptor)
        return directory

    @contextmanager
    def filling(self, location: str) -> Iterator[Path]:
        """Yield a directory to fill, with the files of an earlier attempt. It becomes the copy if the block succeeds.

        One process at a time fills it; others wait here and then find it filled.
        """
        parent = self.root / PARTIAL
        parent.mkdir(parents=True, exist_ok=True)
        name = location.replace("/", "-")
        lock = os.open(parent / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            directory = parent / name
            directory.mkdir(exist_ok=True)
            yield directory
            target = self.root / location
            if (target / MANIFEST_NAME).is_file():
                shutil.rmtree(directory)
            else:
                shutil.rmtree(target, ignore_errors=True)  # the rest of a copy whose removal was interrupted
                target.parent.mkdir(parents=True, exist_ok=True)
                directory.rename(target)
        finally:
            os.close(lock)

    def remove(self, location: str) -> None:
        """Remove a copy, if there is one, even if it is in use."""
        if (descriptor := self._in_use.pop(location, None)) is not None:
            os.close(descriptor)
        (self.root / location / MANIFEST_NAME).unlink(missing_ok=True)
        shutil.rmtree(self.root / location, ignore_errors=True)

    def make_room(self) -> None:
        """Remove unused copies, the least recently used first, until the limit holds."""
        copies: list[tuple[float, int, Path]] = []  # last use, bytes, manifest
        for manifest in self.root.glob(f"[!.]*/*/{MANIFEST_NAME}"):
            with suppress(FileNotFoundError):  # another process removes it
                size = sum(path.stat().st_size for path in manifest.parent.rglob("*"))
                copies.append((manifest.stat().st_mtime, size, manifest))
        total = sum(size for _, size, _ in copies)
        for _, size, manifest in sorted(copies):
            if total <= self._limit:
                return
            with locked(manifest) as is_unused:
                if is_unused:
                    manifest.unlink(missing_ok=True)  # first: a copy without a manifest is none
                    shutil.rmtree(manifest.parent, ignore_errors=True)
            if not manifest.exists():
                total -= size


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock `path` for this block. Yields False if a living process has the lock, or the path is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(descriptor).st_nlink > 0  # 0: removed between opening and locking
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
