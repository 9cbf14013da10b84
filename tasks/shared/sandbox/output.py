"""Reads what a program printed: from a memory file, head and tail only, so that a flood costs nothing.

The program writes to a memfd that outlives it, hence nothing printed before a kill is lost, and its size
is bounded by RLIMIT_FSIZE.
"""

from __future__ import annotations

import functools
import os
import re
import sys

_BYTES_A_CHAR = 4
_MARK = "\n... [output cut: {} characters left out] ...\n"
_SHORT_MARK = "\n...\n"
_MARKED = re.compile(re.escape(_MARK).replace(r"\{\}", r"(\d+)"))
_PRIVATE = re.compile(r"/scratch/\d+/(?:[a-p]{24}/)?")
"""The directory of a program has another number each time."""


def cut_middle(text: str, limit: int, total: int | None = None) -> tuple[str, bool]:
    """`text` with its middle replaced by a mark, so that it is at most `limit` characters long; and whether it was cut.

    `total` is the true length where `text` already lacks a middle. As much is kept of the head as of the tail.
    """
    length = len(text) if total is None else total
    if len(text) <= limit and total is None:
        return text, False
    mark = _MARK.format(length)
    room = limit - len(mark)
    mark = _MARK.format(length - room) if room >= 0 else _SHORT_MARK
    room = room if room >= 0 else max(limit - len(mark), 0)
    head, tail = room - room // 2, room // 2
    return (text[:head] + mark + (text[-tail:] if tail else ""))[:limit], True


def cut_again(text: str, limit: int) -> str:
    """Text that `cut_middle` may have cut before, cut to a lower limit: one mark, with all that is missing."""
    found = _MARKED.search(text)
    if found is None or len(text) <= limit:
        return cut_middle(text, limit)[0]
    kept = text[: found.start()] + text[found.end() :]
    return cut_middle(kept, limit, total=len(kept) + int(found.group(1)))[0]


def read_output(descriptor: int, limit_chars: int) -> tuple[str, bool]:
    """What is in the memory file, cut in the middle; and whether it was cut."""
    size = os.fstat(descriptor).st_size
    most = limit_chars * _BYTES_A_CHAR
    if size <= 2 * most:
        whole = os.pread(descriptor, size, 0).decode("utf-8", "replace")
        return cut_middle(without_host_paths(whole), limit_chars)
    head = os.pread(descriptor, most, 0).decode("utf-8", "replace")
    tail = os.pread(descriptor, most, size - most).decode("utf-8", "replace")
    kept = without_host_paths(head)[:limit_chars] + without_host_paths(tail)[-limit_chars:]
    return cut_middle(kept, limit_chars, total=size)


def without_host_paths(text: str) -> str:
    """The text with library files named from their package on, and the program's own from its directory on.

    Where this machine keeps its libraries is none of the model's affair, and differs from host to container.
    """
    if "/" not in text:
        return text
    for folder in _library_folders():
        text = text.replace(folder, "")
    return _PRIVATE.sub("", text)


@functools.cache
def _library_folders() -> tuple[str, ...]:
    """Where this interpreter, which is that of the programs too, imports from; the longest first."""
    folders = {f"{os.path.realpath(path)}/" for path in sys.path if os.path.isabs(path)}
    folders |= {f"{path}/" for path in sys.path if os.path.isabs(path)}
    return tuple(sorted(folders - {"//"}, key=len, reverse=True))
