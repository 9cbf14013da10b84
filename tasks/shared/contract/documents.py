"""Small JSON documents beside the artifacts of a store (`runs/`, `tags/`, `nights/`), changed under a lock.

On a file system a change is a temporary file and a rename. An object store has no locks, so the last writer wins.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from upath import UPath

from tasks.shared.artifacts.locations import is_elsewhere
from tasks.shared.artifacts.outage import reported_as_outage
from tasks.shared.contract.full_disk import IN_STORE, reported_as_full_disk

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class Documents:
    """The documents of one folder of a store, by name."""

    def __init__(self, store: str, folder: str) -> None:
        """`store` is the directory or URI of the artifact store."""
        self._store = store
        self._root = UPath(store.removeprefix("file://")) / folder
        self.is_local = not is_elsewhere(store)

    def names(self) -> list[str]:
        """List all documents, the last changed first."""
        changed: dict[str, float] = {}
        with reported_as_outage(self._store):
            for path in self._root.iterdir() if self._root.is_dir() else ():
                with suppress(FileNotFoundError):  # removed meanwhile, as a lease is
                    if path.name.endswith(".json"):
                        changed[path.name.removesuffix(".json")] = path.stat().st_mtime
        return sorted(changed, key=lambda name: changed[name], reverse=True)

    def describe(self, name: str) -> str:
        """Return the path or URI of a document. Raises ValueError for an invalid name."""
        return str(self._path(name))

    def read(self, name: str) -> bytes | None:
        """Return the content of a document, or None."""
        try:
            with reported_as_outage(self._store):
                return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def change(self, name: str, update: Callable[[bytes | None], str]) -> None:
        """Replace the content of a document by `update(content)`, one change at a time."""
        with self.locked():
            self.write(name, update(self.read(name)))

    def write(self, name: str, content: str) -> None:
        """Write a whole document. Use `change` for documents that others change too."""
        path = self._path(name)
        with reported_as_full_disk(IN_STORE, self._store), reported_as_outage(self._store):
            if self.is_local:
                write_whole(Path(str(path)), content)
            else:
                path.write_text(content, encoding="utf-8")

    def remove(self, name: str) -> None:
        """Delete the document, if there is one."""
        with reported_as_outage(self._store):
            self._path(name).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the documents of this folder against changes. Has no effect on an object store."""
        if not self.is_local:
            yield
            return
        with reported_as_full_disk(IN_STORE, self._store):
            self._root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(str(self._root / ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, name: str) -> UPath:
        return self._root / f"{check_name(name)}.json"


def write_whole(path: Path, content: str) -> None:
    """Write a local file at once: a reader sees the old or the new content, even after a power failure."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_name(name: str) -> str:
    """Return the name. Raises ValueError if it cannot be the name of a file."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"name {name!r}: use letters, digits, '.', '_' and '-', at most 80, starting with a letter or digit"
        )
    return name
