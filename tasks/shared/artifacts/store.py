"""The artifact store: stage into a temporary directory, publish whole or not at all, verify every byte when read.

store = Store("s3://bucket/tirflow")            # or a directory
with store.staging("traces") as directory:
    ...                                          # write files
    ref = store.publish("traces", directory, provenance, {"accepted": 960})
path = store.fetch(ref)                          # a local directory, verified
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from upath import UPath

from tasks.shared.artifacts.cache import Cache
from tasks.shared.artifacts.locations import LocalLocation, ObjectLocation, is_elsewhere
from tasks.shared.artifacts.manifest import (
    MANIFEST_NAME,
    ArtifactError,
    ArtifactRef,
    FileEntry,
    Manifest,
    Provenance,
    content_digest,
    list_files,
    parse_manifest,
    remedy,
    scan,
)
from tasks.shared.contract.environment import cache_limit_bytes, home
from tasks.shared.contract.full_disk import IN_STORE, reported_as_full_disk


class Store:
    """Artifacts under one root: a directory or an fsspec URI."""

    def __init__(self, root: str, cache: Path | None = None) -> None:
        """`cache`: the directory for copies of an object store's artifacts; `<home>/cache` by default."""
        self.root = root
        self._place: LocalLocation | ObjectLocation
        if is_elsewhere(root):
            copies = Cache(cache or home() / "cache", cache_limit_bytes())
            self._place = ObjectLocation(UPath(root), copies)
        else:
            self._place = LocalLocation(Path(root.removeprefix("file://")).resolve())
        # path, inode, mtime, size and sha256 of files that were verified
        self._verified = set[tuple[str, int, int, int, str]]()

    @contextmanager
    def staging(self, kind: str) -> Iterator[Path]:
        """Yield a directory to fill and hand to `publish`. It is removed when the block ends, whatever happens.

        Raises OSError with a remedy when the disk is full.
        """
        with reported_as_full_disk(IN_STORE, self.root), self._place.staging(kind) as directory:
            yield directory

    def publish(
        self,
        kind: str,
        directory: Path,
        provenance: Provenance,
        metrics: Mapping[str, float | int | str | bool | None] | None = None,
    ) -> ArtifactRef:
        """Publish a directory from `staging`, which it consumes. Publishing equal content twice gives one artifact.

        Raises ArtifactError: no files to publish, links among the files, or a damaged artifact in the same place.
        """
        is_local = not is_elsewhere(self.root)  # files for an object store need no flush: it keeps them
        files = scan(directory, flush=is_local)
        if not files:
            raise ArtifactError(
                f"{kind}: nothing to publish, {directory} has no files; the stage must write some"
            )
        digest, created = content_digest(files), datetime.now(UTC).isoformat(timespec="seconds")
        manifest = Manifest(kind, digest, files, provenance, dict(metrics or {}), created).sealed()
        with (directory / MANIFEST_NAME).open("wb") as stream:
            stream.write(manifest.to_json())
            stream.flush()
            if is_local:
                os.fsync(stream.fileno())
        if not self._place.install(directory, manifest.location):
            self.fetch(manifest.ref)
        return manifest.ref

    def fetch(self, ref: ArtifactRef) -> Path:
        """Return a local directory with the artifact's files, every byte checked. Treat it as read-only.

        Raises ArtifactError naming the file and the remedy: missing, changed or foreign files, damaged manifest.
        """
        manifest = self.manifest(ref)
        directory = self._place.local(manifest)
        where = self._place.describe(ref.location)
        known = {directory / entry.path for entry in manifest.files}
        foreign = [path for path in list_files(directory) if path not in known]
        if foreign:
            raise ArtifactError(f"{foreign[0]}: not in the artifact's manifest; take it out of the store")
        for entry in manifest.files:
            if fault := self._fault(directory / entry.path, entry):
                raise ArtifactError(f"{directory / entry.path}: {fault}; {remedy(where)}")
        return directory

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """Return the artifact's manifest. Raises ArtifactError if it is missing, damaged or another artifact's."""
        manifest = self.read(ref.location)
        if manifest.ref != ref:
            where = self._place.describe(ref.location)
            raise ArtifactError(
                f"{where}/{MANIFEST_NAME}: describes {manifest.location}, not this one; {remedy(where)}"
            )
        return manifest

    def read(self, location: str) -> Manifest:
        """Return the manifest at a location. Raises ArtifactError if there is none or it is damaged."""
        where = self._place.describe(location)
        content = self._place.read_manifest(location)
        if content is None:
            raise ArtifactError(f"{where}: no such artifact in this store; run the stage that makes it again")
        return parse_manifest(content, where)

    def locations(self) -> list[str]:
        """List the location of every artifact, sorted."""
        return sorted(self._place.locations())

    def remove(self, location: str) -> None:
        """Remove an artifact. `collection.py` decides which ones may go."""
        self._place.remove(location)

    def exists(self, ref: ArtifactRef) -> bool:
        """Whether the artifact is in this store. Its files are not read."""
        return self._place.read_manifest(ref.location) is not None

    def describe(self, ref: ArtifactRef) -> str:
        """Return the path or URI at which a person or a tool opens the artifact."""
        return self._place.describe(ref.location)

    def _fault(self, path: Path, entry: FileEntry) -> str:
        """Return what is wrong with a file, "" for nothing."""
        if not path.is_file():
            return "missing from its artifact"
        status = path.stat()
        if status.st_size != entry.size:
            return f"{status.st_size} bytes where its manifest says {entry.size}"
        # A file that this process has verified, and that was not touched since, is not read again.
        seen = (str(path), status.st_ino, status.st_mtime_ns, status.st_size, entry.sha256)
        if seen not in self._verified:
            with path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
                    return "content changed since it was published (sha256 differs)"
            self._verified.add(seen)
        return ""
