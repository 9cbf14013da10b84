"""Reads what a program printed: from a memory file, head and tail only, so that a flood costs nothing.

The program writes to a memfd that outlives it, hence nothing printed before a kill is lost, and its size
is bounded by RLIMIT_FSIZE.
"""

from __future__ import annotations

import os

_BYTES_A_CHAR = 4


def cut_middle(text: str, limit: int, total: int | None = None) -> tuple[str, bool]:
    """`text` with its middle replaced by a mark if it is longer than `limit` characters.

    `total` is the true length where `text` already lacks a middle. Returns the text, at most `limit` plus the
    mark's length long, and whether it was cut. The first and the last half are kept.
    """
    length = len(text) if total is None else total
    if len(text) <= limit and total is None:
        return text, False
    head, tail = limit - limit // 2, limit // 2
    mark = f"\n... [output cut: {max(length - limit, 1)} characters left out] ...\n"
    return text[:head] + mark + (text[-tail:] if tail else ""), True


def read_output(descriptor: int, limit_chars: int) -> tuple[str, bool]:
    """What is in the memory file, cut in the middle; and whether it was cut."""
    size = os.fstat(descriptor).st_size
    most = limit_chars * _BYTES_A_CHAR
    if size <= 2 * most:
        return cut_middle(os.pread(descriptor, size, 0).decode("utf-8", "replace"), limit_chars)
    head = os.pread(descriptor, most, 0).decode("utf-8", "replace")
    tail = os.pread(descriptor, most, size - most).decode("utf-8", "replace")
    return cut_middle(head[:limit_chars] + tail[-limit_chars:], limit_chars, total=size)
