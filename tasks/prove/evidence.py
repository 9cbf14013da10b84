"""The folder of a certificate, and how to open one that somebody else wrote.

    certificate.json   its subject, every fact it states, and sha256 and size of every other file
    store/             an artifact store with everything the score follows from, byte for byte as published
    report.html        the report of these evaluations
    README.md          for people: what a certificate is and how to check it

`store/` has all files of the evaluations, the evaluation sets and the training problems, a checkpoint without its
weights, and only the manifests of all other artifacts in the lineage.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.prove.archive import unpack
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.artifacts.manifest import FileEntry

FORMAT = "tirflow-certificate-1"
CERTIFICATE_FILE, STORE, REPORT_FILE, README_FILE = "certificate.json", "store", "report.html", "README.md"
WHOLE = ("evaluation", "evaluation_sets", "problems")  # kinds that a certificate holds with all their files
MOST_ROWS = 10_000_000  # of a table that others wrote
MOST_DOCUMENT_BYTES = 64 << 20  # of a JSON file; tokenizers have up to 35 MB
MOST_TABLE_BYTES = 8 << 30  # of an uncompressed table


class Certificate(BaseModel):
    """The content of `certificate.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str
    name: str  # of the evaluation in the report
    evaluation: ArtifactRef
    against: dict[str, ArtifactRef]  # evaluations to compare with, by name
    facts: dict[str, Any]  # derived by `facts.py`
    files: tuple[FileEntry, ...]  # every other file of the folder

    @property
    def evaluations(self) -> dict[str, ArtifactRef]:
        """All evaluations by name, in the order of comparison: its own evaluation comes last."""
        return {**self.against, self.name: self.evaluation}


@dataclass(frozen=True, slots=True)
class Evidence:
    """An open certificate."""

    directory: Path
    certificate: Certificate

    @property
    def store(self) -> Store:
        """The artifacts that the score follows from."""
        return Store(str(self.directory / STORE))

    def place(self, ref: ArtifactRef) -> Path:
        """Return the directory of an artifact's files, which are not checked."""
        return self.directory / STORE / ref.location


def open_evidence(path: Path, scratch: Path) -> Evidence:
    """Open the certificate at `path`, a folder or a tar. A tar is unpacked into `scratch`.

    Raises ValueError if there is no such file, the archive is unsafe or too large, or certificate.json is missing or
    damaged, or a document or table is too large.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such certificate; tirflow certify EVALUATION writes one")
    directory = path if path.is_dir() else unpack(path, scratch)
    for part in directory.rglob("*.json"):
        if part.is_file() and part.stat().st_size > MOST_DOCUMENT_BYTES:
            raise ValueError(f"{path}: {part.name} is larger than {MOST_DOCUMENT_BYTES >> 20} MiB")
    for table in directory.rglob("*.parquet"):
        require_bounded(table)
    document = directory / CERTIFICATE_FILE
    if not document.is_file():
        raise ValueError(f"{path}: no {CERTIFICATE_FILE} in it; give what tirflow certify wrote")
    try:
        certificate = Certificate.model_validate_json(document.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "file"
        raise ValueError(f"{path}: {CERTIFICATE_FILE} is damaged ({key}: {first['msg']})") from None
    if certificate.format != FORMAT:
        raise ValueError(f"{path}: format '{certificate.format}', this version reads {FORMAT}")
    return Evidence(directory, certificate)


def require_bounded(table: Path) -> None:
    """Raise ValueError for a parquet file that claims more rows or bytes than an evaluation can have.

    A file that cannot be read is reported where its rows are needed.
    """
    try:
        metadata = pq.read_metadata(table)
    except (pa.ArrowException, OSError):
        return
    unpacked = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if metadata.num_rows > MOST_ROWS or unpacked > MOST_TABLE_BYTES:
        raise ValueError(
            f"{table.name}: {metadata.num_rows:,} rows, {unpacked:,} bytes unpacked; at most {MOST_ROWS:,} and "
            f"{MOST_TABLE_BYTES:,} are read"
        )


def has_digest(path: Path, sha256: str) -> bool:
    """Whether a file has this sha256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256


def tree_differences(stated: Any, found: Any, where: str = "") -> list[str]:
    """Return a line for every leaf that differs in two JSON trees. Numbers may differ by rounding."""
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        keys = sorted(stated.keys() | found.keys())
        pairs = [(f"{where}.{key}" if where else key, stated.get(key), found.get(key)) for key in keys]
    elif isinstance(stated, list | tuple) and isinstance(found, list | tuple) and len(stated) == len(found):
        pairs = [(f"{where}[{place}]", *both) for place, both in enumerate(zip(stated, found, strict=True))]
    else:
        return [] if _equal(stated, found) else [f"{where}: stated {_short(stated)}, found {_short(found)}"]
    return [line for name, one, other in pairs for line in tree_differences(one, other, name)]


def _equal(stated: Any, found: Any) -> bool:
    if isinstance(stated, float) or isinstance(found, float):
        numbers = isinstance(stated, int | float) and isinstance(found, int | float)
        return numbers and abs(stated - found) <= 1e-9 * max(1.0, abs(stated))
    return bool(stated == found)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
