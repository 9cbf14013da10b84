"""Claims of stages that run now on what they are made from and what they make: `live/<id>.json` in the store.

On a file system a lease is locked by whoever holds it: one that was killed loses its claim with its life. An object
store has no locks: there a lease counts until it is given back, or for `EXPIRES`.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.documents import Documents

EXPIRES = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Lease:
    """One claim."""

    holder: str  # run and stage
    since: str  # ISO 8601, UTC: what was published from then on is claimed too
    locations: list[str]  # what the stage is made from


class Leases:
    """The leases of one store."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._documents = Documents(store, "live")

    @contextmanager
    def hold(self, holder: str, artifacts: Iterable[ArtifactRef]) -> Iterator[None]:
        """Claim these artifacts, and all that are published from now on, while the block runs."""
        name = uuid4().hex
        since = datetime.now(UTC).isoformat(timespec="seconds")
        locations = [ref.location for ref in artifacts]
        content = json.dumps(asdict(Lease(holder, since, locations)))
        with self._documents.locked():
            self._documents.write(name, content)
            descriptor = _try_lock(self._path(name)) if self._documents.is_local else None
        try:
            yield
        finally:
            self._documents.remove(name)
            if descriptor is not None:
                os.close(descriptor)

    def living(self) -> list[Lease]:
        """Every lease that is held now; what the dead have left is removed."""
        found = []
        for name in self._documents.names():
            content = self._documents.read(name)
            if content is None:
                continue  # given back since
            lease = Lease(**json.loads(content))
            if self._is_live(name, datetime.fromisoformat(lease.since)):
                found.append(lease)
            else:
                self._documents.remove(name)
        return found

    def locked(self) -> AbstractContextManager[None]:
        """While it is held no stage begins (on a file system)."""
        return self._documents.locked()

    def _is_live(self, name: str, since: datetime) -> bool:
        if not self._documents.is_local:
            return datetime.now(UTC) - since < EXPIRES
        try:
            descriptor = _try_lock(self._path(name))
        except FileNotFoundError:
            return False  # given back since
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None

    def _path(self, name: str) -> Path:
        return Path(self._documents.describe(name))


def _try_lock(path: Path) -> int | None:
    """The descriptor that locks the file; None if a living process has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
