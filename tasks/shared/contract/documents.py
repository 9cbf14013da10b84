"""Small JSON documents beside the artifacts of a store (`runs/`, `tags/`, `nights/`): read whole, changed under a lock.

On a file system a change is a temporary file and a rename; an object store has no locks, there the last writer wins.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from tasks.shared.artifacts.outage import reported_as_outage
from tasks.shared.contract.full_disk import IN_STORE, reported_as_full_disk

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class Documents:
    """The documents of one folder of a store, by name."""

    def __init__(self, store: str, folder: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._store = store
        self._root = UPath(store) / folder
        self.is_local = self._root.protocol in ("", "file", "local")

    def names(self) -> list[str]:
        """All documents, the one that was changed last first."""
        if not self._root.is_dir():
            return []
        paths = [path for path in self._root.iterdir() if path.name.endswith(".json")]
        changed = {path.name.removesuffix(".json"): path.stat().st_mtime for path in paths}
        return sorted(changed, key=lambda name: changed[name], reverse=True)

    def describe(self, name: str) -> str:
        """The document's path or URI. ValueError if the name cannot be a file's."""
        return str(self._path(name))

    def read(self, name: str) -> bytes | None:
        """The document's content, None if there is none."""
        try:
            with reported_as_outage(self._store):
                return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def change(self, name: str, update: Callable[[bytes | None], str]) -> None:
        """Replace the document by what `update` makes of its present content; one change at a time."""
        with self.locked():
            self.write(name, update(self.read(name)))

    def write(self, name: str, content: str) -> None:
        """Write the document whole, whatever was there; who changes one that others change too wants `change`."""
        with reported_as_full_disk(IN_STORE, self._store), reported_as_outage(self._store):
            self._write(name, content)

    def _write(self, name: str, content: str) -> None:
        path = self._path(name)
        if not self.is_local:
            path.write_text(content)
            return
        write_whole(Path(str(path)), content)

    def remove(self, name: str) -> None:
        """Delete the document, if there is one."""
        self._path(name).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it is held nobody changes a document of this folder; without effect on an object store."""
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
    """Write a local file: whoever reads it sees all of it or what was there before, after a power cut too."""
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
    """The name if it can be a file's; ValueError otherwise."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"name {name!r}: use letters, digits, '.', '_' and '-', at most 80, starting with a letter or digit"
        )
    return name
