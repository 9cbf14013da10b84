"""Small JSON documents beside the artifacts of a store (`tags/`, `nights/`): read whole, changed under a lock.

On a file system a change is a temporary file and a rename; an object store has no locks, there the last writer wins.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from upath import UPath

from tasks.shared.runs import check_name


class Documents:
    """The documents of one folder of a store, by name."""

    def __init__(self, store: str, folder: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._root = UPath(store) / folder
        self._is_local = self._root.protocol in ("", "file", "local")

    def names(self) -> list[str]:
        """All documents, sorted."""
        if not self._root.is_dir():
            return []
        found = [path.name for path in self._root.iterdir() if path.name.endswith(".json")]
        return sorted(name.removesuffix(".json") for name in found)

    def describe(self, name: str) -> str:
        """The document's path or URI. ValueError if the name cannot be a file's."""
        return str(self._path(name))

    def read(self, name: str) -> bytes | None:
        """The document's content, None if there is none."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def change(self, name: str, update: Callable[[bytes | None], str]) -> None:
        """Replace the document by what `update` makes of its present content; one change at a time."""
        path = self._path(name)
        with self._locked():
            content = update(self.read(name))
            if self._is_local:
                temporary = path.with_suffix(f".{os.getpid()}.tmp")
                temporary.write_text(content)
                os.replace(str(temporary), str(path))
            else:
                path.write_text(content)

    def _path(self, name: str) -> UPath:
        return self._root / f"{check_name(name)}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._is_local:
            yield
            return
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(str(self._root / ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
