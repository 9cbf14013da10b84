"""Reads the output of a program from a memory file: only head and tail, so that a flood costs nothing.

The program writes to a memfd that outlives it, so nothing printed before a kill is lost. RLIMIT_FSIZE bounds its size.
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
"""The private directory of a program, whose path differs each time."""


def cut_middle(text: str, limit: int, total: int | None = None) -> tuple[str, bool]:
    """Replace the middle of a text by a mark if it is longer than `limit`. Returns the text, and whether it was cut.

    `total` is the true length of a text that already lacks a middle. Head and tail are kept in equal parts.
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
    """Cut a text to a lower limit that `cut_middle` may have cut before. One mark then counts all that is missing."""
    found = _MARKED.search(text)
    if found is None or len(text) <= limit:
        return cut_middle(text, limit)[0]
    kept = text[: found.start()] + text[found.end() :]
    return cut_middle(kept, limit, total=len(kept) + int(found.group(1)))[0]


def read_output(descriptor: int, limit_chars: int) -> tuple[str, bool]:
    """Read a memory file, cut in the middle. Returns the text, and whether it was cut."""
    size = os.fstat(descriptor).st_size
    part = limit_chars * _BYTES_A_CHAR
    if size <= 2 * part:
        whole = os.pread(descriptor, size, 0).decode("utf-8", "replace")
        return cut_middle(without_host_paths(whole), limit_chars)
    head = os.pread(descriptor, part, 0).decode("utf-8", "replace")
    tail = os.pread(descriptor, part, size - part).decode("utf-8", "replace")
    kept = without_host_paths(head)[:limit_chars] + without_host_paths(tail)[-limit_chars:]
    return cut_middle(kept, limit_chars, total=size)


def without_host_paths(text: str) -> str:
    """Shorten paths of library files to begin at their package, and those of the program to begin at its directory.

    The full paths do not concern the model, and differ between host and container.
    """
    if "/" not in text:
        return text
    for folder in _library_folders():
        text = text.replace(folder, "")
    return _PRIVATE.sub("", text)


@functools.cache
def _library_folders() -> tuple[str, ...]:
    """List the folders from which this interpreter, and so each program, imports; the longest first."""
    paths = [path for path in sys.path if os.path.isabs(path)]
    folders = {f"{path}/" for path in (*paths, *map(os.path.realpath, paths))}
    return tuple(sorted(folders - {"//"}, key=len, reverse=True))
