"""Where artifacts lie: a local directory (published by one rename) or an object store (the manifest goes last).

Both guarantee that an artifact with a manifest is complete, and that nothing without one counts as an artifact.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from upath import UPath

from tasks.shared.artifacts.cache import Cache, locked
from tasks.shared.artifacts.manifest import MANIFEST_NAME, Manifest, parse_manifest
from tasks.shared.artifacts.outage import reported_as_outage
from tasks.shared.artifacts.transfer import download, upload

STAGING = ".staging"


def is_elsewhere(root: str) -> bool:
    """Whether a store is an object store, reached over a network."""
    return "://" in root and not root.startswith("file://")


class LocalLocation:
    """A directory on a file system; staging lies inside it, so that publication is one rename.

    A `location` is relative to the root.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def staging(self, kind: str) -> Iterator[Path]:
        """Yield a directory to fill, locked while this process lives. Removes what dead processes left behind."""
        parent = self.root / STAGING
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.iterdir():
            with locked(leftover) as is_locked:
                if is_locked:
                    shutil.rmtree(leftover, ignore_errors=True)
        directory, descriptor = _make_locked(parent, kind)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(descriptor)

    def install(self, directory: Path, location: str) -> bool:
        """Rename `directory` to `location`, its files read-only. Returns False if an artifact is there."""
        for path in directory.rglob("*"):
            if path.is_file():
                path.chmod(0o444)
        target = self.root / location
        target.parent.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        try:
            directory.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        _flush(target.parent)
        return True

    def read_manifest(self, location: str) -> bytes | None:
        """Return the bytes of the manifest, or None without an artifact."""
        path = self.root / location / MANIFEST_NAME
        return path.read_bytes() if path.is_file() else None

    def local(self, manifest: Manifest) -> Path:
        """Return the artifact's directory, not yet verified."""
        return self.root / manifest.location

    def locations(self) -> Iterator[str]:
        """Yield the location of every artifact, in no order."""
        for path in self.root.glob(f"[!.]*/*/{MANIFEST_NAME}"):
            yield path.parent.relative_to(self.root).as_posix()

    def remove(self, location: str) -> None:
        """Remove an artifact: rename it out of sight, then delete its files."""
        with self.staging("removed") as directory:
            (self.root / location).rename(directory / "artifact")

    def describe(self, location: str) -> str:
        """Return the path that a person or a tool opens."""
        return str(self.root / location)


class ObjectLocation:
    """A prefix on an object store (s3://, gs://, memory://), with a local cache of read artifacts."""

    def __init__(self, root: UPath, cache: Cache) -> None:
        self.root = root
        self.cache = cache

    def staging(self, kind: str) -> AbstractContextManager[Path]:
        """Yield a directory to fill, below the local cache."""
        return LocalLocation(self.cache.root).staging(kind)

    def install(self, directory: Path, location: str) -> bool:
        """Upload the files, the manifest last. Returns False if an artifact is there."""
        if self.read_manifest(location) is not None:
            return False
        target = self.root / location
        manifest = parse_manifest((directory / MANIFEST_NAME).read_bytes(), str(directory))
        with reported_as_outage(str(self.root)):
            upload(directory, target, manifest.files)
            target.fs.put_file(str(directory / MANIFEST_NAME), (target / MANIFEST_NAME).path)
        return True

    def read_manifest(self, location: str) -> bytes | None:
        """Return the bytes of the manifest, or None without an artifact."""
        # fsspec caches listings and absences, but another process may have published since.
        self.root.fs.invalidate_cache()
        try:
            with reported_as_outage(str(self.root)):
                return (self.root / location / MANIFEST_NAME).read_bytes()
        except FileNotFoundError:
            return None

    def local(self, manifest: Manifest) -> Path:
        """Return the cached copy. If it is missing, it is downloaded; an interrupted download continues."""
        copy = self.cache.find(manifest.location)
        if copy is not None and (copy / MANIFEST_NAME).read_bytes() != manifest.to_json():
            self.cache.remove(manifest.location)  # of a stage that did the same work and published second
            copy = None
        while copy is None:
            with self.cache.filling(manifest.location) as directory:
                with reported_as_outage(str(self.root)):
                    download(self.root / manifest.location, directory, manifest.files)
                (directory / MANIFEST_NAME).write_bytes(manifest.to_json())
            copy = self.cache.find(manifest.location)
            self.cache.make_room()
        return copy

    def locations(self) -> Iterator[str]:
        """Yield the location of every artifact, in no order."""
        self.root.fs.invalidate_cache()
        with reported_as_outage(str(self.root)):
            for path in self.root.glob(f"*/*/{MANIFEST_NAME}"):
                yield "/".join(path.parts[-3:-1])

    def remove(self, location: str) -> None:
        """Remove the manifest first, then the files, here and in the cache."""
        target = self.root / location
        with reported_as_outage(str(self.root)):
            target.fs.rm_file((target / MANIFEST_NAME).path)
            if target.fs.exists(target.path):
                target.fs.rm(target.path, recursive=True)
        self.cache.remove(location)

    def describe(self, location: str) -> str:
        """Return the URI, and the cached copy if there is one."""
        cached = self.cache.root / location
        return f"{self.root / location}" + (f" (and its copy {cached})" if cached.exists() else "")


def _make_locked(parent: Path, kind: str) -> tuple[Path, int]:
    """Make a locked directory. Returns it and the descriptor that holds its lock."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=parent))
        try:
            descriptor = os.open(directory, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except FileNotFoundError:
            continue  # another process swept it between its making and its locking
        if directory.exists():
            return directory, descriptor
        os.close(descriptor)


def _flush(directory: Path) -> None:
    """Make a rename inside `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
