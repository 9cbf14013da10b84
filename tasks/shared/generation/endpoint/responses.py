"""The log of raw responses: append-only, each on disk before it is used, so that no request is paid twice.

A log is a directory of `*.jsonl.gz` files, one gzip member a response (`zcat` and pandas read whole files). Every
process begins a new file, so a kill can only tear the end of a file that is never written again. Memory holds the
offsets; bodies are read on request.
"""

import gzip
import json
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from tasks.shared.generation.endpoint.completion import Usage

CHUNK_BYTES = 1 << 16
GZIP_MEMBER = 31  # zlib's window bits for a gzip header


@dataclass(frozen=True, slots=True, order=True)
class ResponseKey:
    """The request that a response answers: one turn of one sample of one problem."""

    asker: str  # "teacher" or "judge"
    problem_id: str
    sample: int  # index among the problem's traces; of the first if one request returns several
    turn: int  # turn of the conversation, from 0
    request: str  # digest of the payload, so that a changed prompt or model is another request


@dataclass(frozen=True, slots=True)
class _Entry:
    """The location of a response, and its cost."""

    path: Path
    offset: int
    usage: Usage
    is_own: bool  # whether this run asked for it, or an earlier one


class ResponseLog:
    """The responses in `directory`, where new ones are appended, and those of `earlier` logs."""

    def __init__(self, directory: Path, earlier: Sequence[Path] = ()) -> None:
        """Read the logs. ValueError for a damaged file, or an earlier log without files."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._index: dict[ResponseKey, _Entry] = {}
        self._lock = threading.Lock()
        self._stream: int | None = None
        names = (directory / f"shard-{number:06d}.jsonl.gz" for number in count())
        self._path = next(path for path in names if not path.exists())
        for folder in (*earlier, directory):
            files = sorted(folder.glob("*.jsonl.gz"))
            if not files and folder != directory:
                raise ValueError(f"{folder}: no responses (*.jsonl.gz) there; correct synthesize.responses")
            for path in files:
                self._read(path, is_own=folder == directory)

    def __len__(self) -> int:
        return len(self._index)

    def find(self, key: ResponseKey) -> str | None:
        """The response to this request; None if it was never answered."""
        if (entry := self._index.get(key)) is None:
            return None
        with entry.path.open("rb") as stream:
            stream.seek(entry.offset)
            record = next(_members(stream.fileno(), entry.offset))[1]
        return str(json.loads(record)["body"])

    def append(self, key: ResponseKey, body: str, usage: Usage) -> None:
        """Append a response; it is on disk when this returns."""
        member = _compressed(key, body, usage)
        with self._lock:
            assert key not in self._index, f"asked twice: {key}"
            if self._stream is None:
                self._stream = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            offset = os.fstat(self._stream).st_size
            try:
                while member:
                    member = member[os.write(self._stream, member) :]
                os.fsync(self._stream)
            except OSError:  # a full disk: a part of it would damage what other requests append
                os.ftruncate(self._stream, offset)
                raise
            self._index[key] = _Entry(self._path, offset, usage, is_own=True)

    def spent(self, asker: str) -> Usage:
        """The cost of this run's own responses, including those of its killed processes."""
        own = (entry.usage for key, entry in self._index.items() if entry.is_own and key.asker == asker)
        return sum(own, Usage())

    def usage_by_problem(self) -> dict[tuple[str, str], tuple[int, Usage]]:
        """Number of responses and their usage, of this run and earlier ones, for each asker and problem."""
        found: dict[tuple[str, str], tuple[int, Usage]] = {}
        for key, entry in sorted(self._index.items()):
            number, usage = found.get((key.asker, key.problem_id), (0, Usage()))
            found[key.asker, key.problem_id] = (number + 1, usage + entry.usage)
        return found

    def write(self, path: Path) -> None:
        """Write all as one file in the order of keys, so that equal responses give equal bytes."""
        with path.open("wb") as stream:
            for key, entry in sorted(self._index.items()):
                body = self.find(key)
                assert body is not None
                stream.write(_compressed(key, body, entry.usage))

    def _read(self, path: Path, is_own: bool) -> None:
        try:
            with path.open("rb") as stream:
                for offset, record in _members(stream.fileno(), 0):
                    row = json.loads(record)
                    usage = Usage(row.pop("prompt_tokens"), row.pop("completion_tokens"))
                    row.pop("body")
                    self._index[ResponseKey(**row)] = _Entry(path, offset, usage, is_own)
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: damaged ({error}); take the file away: its responses are asked for again"
            ) from None


def _compressed(key: ResponseKey, body: str, usage: Usage) -> bytes:
    row: dict[str, Any] = asdict(key) | asdict(usage) | {"body": body}
    return gzip.compress((json.dumps(row) + "\n").encode(), mtime=0)


def _members(descriptor: int, offset: int) -> Iterator[tuple[int, bytes]]:
    """Offset and content of every whole gzip member from `offset` on; a torn last one is left out."""
    inflate, parts, position = zlib.decompressobj(GZIP_MEMBER), [], offset
    while chunk := os.pread(descriptor, CHUNK_BYTES, position):
        position += len(chunk)
        while chunk:
            parts.append(inflate.decompress(chunk))
            chunk = inflate.unused_data
            if inflate.eof:
                yield offset, b"".join(parts)
                inflate, parts, offset = zlib.decompressobj(GZIP_MEMBER), [], position - len(chunk)
