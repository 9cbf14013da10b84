"""An artifact's manifest: its files with size and sha256, and its provenance.

The digest covers the files, so equal content has an equal digest wherever and whenever it was made. Measured times and
values that depend on the host go under `circumstances/`, which the digest leaves out. The provenance (stage,
configuration, seed, code, inputs) lets a score be traced back to the problems. The seal covers the manifest itself, so
that a change of metrics, times or volatile files shows too.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError

MANIFEST_NAME = "manifest.json"
VOLATILE = "circumstances"  # folder of files that equal artifacts may differ in: seconds, versions, host
STRICT = ConfigDict(extra="forbid")  # an unknown key means damage
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Kind = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]*$")]
# References come from JSON that others wrote: a location must not lead out of the store.
Location = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]*/[0-9a-f]{16}-[0-9a-f]{8}$")]


class ArtifactError(ValueError):
    """An artifact is missing, damaged or not what its manifest says. The message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A reference to a published artifact, all that stages hand to each other.

    Example: `ArtifactRef("traces", "9f3c...", "traces/9f3c01d2a4b5c6d7-0a1b2c3d")`.
    """

    __pydantic_config__ = STRICT

    kind: Kind  # checkpoint, problems, traces, ...
    digest: Sha256  # over the files' paths, sizes and hashes
    location: Location  # relative to the store's root, so that a store can be mounted elsewhere


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact."""

    __pydantic_config__ = STRICT

    path: str  # relative, with forward slashes
    size: int  # bytes
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made an artifact."""

    __pydantic_config__ = STRICT

    stage: str
    config: dict[str, Any]  # the stage's resolved sections
    seed: int
    inputs: dict[str, ArtifactRef]
    code: str = ""  # digest of the sources that ran
    image: str = ""  # digest of the container image, empty outside one

    @property
    def digest(self) -> str:
        """sha256 over all fields, as hex."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `manifest.json`."""

    __pydantic_config__ = STRICT

    kind: Kind
    digest: Sha256
    files: tuple[FileEntry, ...]  # sorted by path
    provenance: Provenance
    metrics: dict[str, float | int | str | bool | None] = field(default_factory=dict)  # headline numbers
    created: str = ""  # ISO 8601, UTC
    seal: str = ""  # sha256 over all of the above, set by `sealed`

    def sealed(self) -> "Manifest":
        """Return the manifest with its seal."""
        content = json.dumps(asdict(replace(self, seal="")), sort_keys=True)
        return replace(self, seal=hashlib.sha256(content.encode()).hexdigest())

    @property
    def location(self) -> str:
        """Where the artifact lies under the store's root."""
        return f"{self.kind}/{self.digest[:16]}-{self.provenance.digest[:8]}"

    @property
    def ref(self) -> ArtifactRef:
        """The reference to this artifact."""
        return ArtifactRef(self.kind, self.digest, self.location)

    def to_json(self) -> bytes:
        """Return the bytes of `manifest.json`."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Return the manifest in `content`. Raises ArtifactError, which names `where`, unless it is consistent."""
    try:
        manifest = TypeAdapter(Manifest).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise _damaged(where, f"damaged ({key or 'file'}: {first['msg']})") from None
    for entry in manifest.files:
        path = PurePosixPath(entry.path)
        if path.is_absolute() or ".." in path.parts:
            raise _damaged(where, f"file '{entry.path}' would leave the artifact")
    if content_digest(manifest.files) != manifest.digest:
        raise _damaged(where, "its digest does not fit its list of files")
    if manifest.sealed() != manifest:
        fault = "its seal does not fit: changed since it was published, or published before there were seals"
        raise _damaged(where, fault)
    return manifest


def _damaged(where: str, fault: str) -> ArtifactError:
    return ArtifactError(f"{where}/{MANIFEST_NAME}: {fault}; {remedy(where)}")


def remedy(where: str) -> str:
    """Say what to do about a damaged artifact at `where`."""
    return f"delete {where} and run again, the stage that made it will run anew"


def content_digest(files: tuple[FileEntry, ...]) -> str:
    """Return the sha256, as hex, over path, size and hash of every file in order, without the volatile ones."""
    digest = hashlib.sha256()
    for entry in files:
        if not entry.path.startswith(f"{VOLATILE}/"):
            digest.update(f"{entry.path}\0{entry.size}\0{entry.sha256}\n".encode())
    return digest.hexdigest()


def scan(directory: Path, flush: bool = True) -> tuple[FileEntry, ...]:
    """Return an entry for every file below `directory`, sorted by path. With `flush` each file is flushed to the disk.

    Raises ArtifactError for anything but plain files: the manifest does not cover what a link points to.
    """

    def entry(path: Path) -> FileEntry:
        with path.open("rb") as stream:
            if flush:
                os.fsync(stream.fileno())
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileEntry(path.relative_to(directory).as_posix(), path.stat().st_size, sha256)

    with ThreadPoolExecutor() as pool:  # hashing and flushing leave the interpreter's lock
        return tuple(pool.map(entry, list_files(directory)))


def list_files(directory: Path) -> list[Path]:
    """List every file below `directory` but the manifest, sorted by relative path. Raises ArtifactError for links."""
    found = []
    for path in directory.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactError(
                f"{path}: not a plain file or folder; copy its content into the artifact instead"
            )
        if path.is_file() and path != directory / MANIFEST_NAME:
            found.append(path)
    return sorted(found, key=lambda path: path.relative_to(directory).as_posix())
