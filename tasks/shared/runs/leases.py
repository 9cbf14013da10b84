"""Leases of running stages on their inputs and on the artifacts that they make: `live/<id>.json` in the store.

On a file system the stage locks its lease, so a lease ends with the process that holds it. An object store has no
locks: there a lease counts until it is given back, or for `EXPIRES`.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.artifacts.cache import locked
from tasks.shared.contract.documents import Documents

EXPIRES = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Lease:
    """One lease."""

    holder: str  # run and stage
    since: str  # ISO 8601, UTC: covers artifacts published from then on too
    locations: list[str]  # the stage's inputs


class Leases:
    """The leases of one store."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._documents = Documents(store, "live")

    @contextmanager
    def hold(self, holder: str, artifacts: Iterable[ArtifactRef]) -> Iterator[None]:
        """Protect these artifacts, and all that are published from now on, while the block runs."""
        name, since = uuid4().hex, datetime.now(UTC).isoformat(timespec="seconds")
        lease = Lease(holder, since, [ref.location for ref in artifacts])
        with ExitStack() as stack:
            with self._documents.locked():
                self._documents.write(name, json.dumps(asdict(lease)))
                if self._documents.is_local:
                    stack.enter_context(locked(self._path(name)))
            stack.callback(self._documents.remove, name)
            yield

    def living(self) -> list[Lease]:
        """List every lease that is held now, and remove those of dead processes."""
        found = []
        for name in self._documents.names():
            content = self._documents.read(name)
            if content is None:
                continue  # given back meanwhile
            lease = Lease(**json.loads(content))
            if self._is_live(name, datetime.fromisoformat(lease.since)):
                found.append(lease)
            else:
                self._documents.remove(name)
        return found

    def locked(self) -> AbstractContextManager[None]:
        """Keep stages from beginning while this lock is held (on a file system)."""
        return self._documents.locked()

    def _is_live(self, name: str, since: datetime) -> bool:
        if not self._documents.is_local:
            return datetime.now(UTC) - since < EXPIRES
        with locked(self._path(name)) as is_free:
            return not is_free and self._path(name).exists()

    def _path(self, name: str) -> Path:
        return Path(self._documents.describe(name))
