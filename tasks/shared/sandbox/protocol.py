"""The protocol of client and server: frames of a 4-byte big-endian length and a JSON object.

The first message is `{"op": "hello", "version": 1, "token": ...}`. Requests `{"id": n, "op": ...}` follow, with op run,
open_session, close_session, in_flight or health. Answers are `{"id": n, "ok": ...}` or `{"id": n, "error": ...}`, in
the order of completion. `in_flight` answers [id, seconds it has run or null, seconds it may run] for each open request.
A frame that cannot be read is answered with an error and ends the connection.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from tasks.shared.sandbox.records import Limits

VERSION = 1
MAX_FRAME = 8 << 20
"""Room for two outputs of `MAX_OUTPUT_CHARS`, at up to 12 bytes a character, and a traceback."""
MAX_CODE_BYTES = 1 << 20
MAX_IN_FLIGHT = 4096
"""Requests of one connection that may be open before the server stops reading from it."""
_LENGTH = struct.Struct(">I")
_LIMIT_NAMES = frozenset(item.name for item in fields(Limits))


class ProtocolError(ValueError):
    """The other side sent something that is not this protocol."""


def encode(message: dict[str, Any]) -> bytes:
    """One frame."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"message of {len(body)} bytes: at most {MAX_FRAME} fit into a frame")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Collects bytes and yields complete messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the messages that `data` completes. Raises ProtocolError, after which the reader is unusable."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise ProtocolError(f"frame of {length} bytes announced: at most {MAX_FRAME}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            try:
                message = json.loads(self._buffer[_LENGTH.size : end])
            except (ValueError, RecursionError) as error:
                raise ProtocolError(f"frame is not JSON: {error}") from error
            if not isinstance(message, dict):
                raise ProtocolError(f"frame holds a {type(message).__name__}, not an object")
            del self._buffer[:end]
            yield message


def parse_limits(values: object, default: Limits) -> Limits:
    """Return the limits of a request: those it names, and defaults for the others. Raises ProtocolError."""
    if values is None:
        return default
    if not isinstance(values, dict) or not _LIMIT_NAMES.issuperset(values):
        raise ProtocolError(f"limits must be an object of {', '.join(sorted(_LIMIT_NAMES))}")
    try:
        return Limits(**{name: values.get(name, getattr(default, name)) for name in _LIMIT_NAMES})
    except ValueError as error:
        raise ProtocolError(str(error)) from error


def parse_code(value: object) -> bytes:
    """Return the program of a request. Raises ProtocolError."""
    if not isinstance(value, str):
        raise ProtocolError(f"code must be a string, not {type(value).__name__}")
    source = value.encode("utf-8", "surrogatepass")
    if len(source) > MAX_CODE_BYTES:
        raise ProtocolError(f"code of {len(source)} bytes: at most {MAX_CODE_BYTES}")
    return source
