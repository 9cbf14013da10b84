"""A full disk is told as one, whoever met it: other projects' writers report it by classes of their own."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

CODES = (errno.ENOSPC, errno.EDQUOT)
IN_STORE = (
    "on the artifact store's disk, nothing was published; free some or point TIRFLOW_STORE to a larger disk"
)
IN_SCRATCH = (
    "for checkpoints and logs; free some or point TIRFLOW_HOME to a larger disk, then run again: the stage goes on "
    "from its last checkpoint"
)


class FullDisk(OSError):
    """No space is left; the message says what to do, `filename` where."""


@contextmanager
def reported_as_full_disk(message: str, where: str) -> Iterator[None]:
    """Raise FullDisk, "no space left <message>", for a full disk that the block meets and nobody has told of yet."""
    # Broad on purpose: safetensors, Arrow and torch raise classes of their own, with the system's words in them.
    try:
        yield
    except FullDisk:
        raise
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise FullDisk(errno.ENOSPC, f"no space left {message}", where) from error


def is_full_disk(error: BaseException) -> bool:
    """True if it, or what it came from, says that no space is left."""
    if isinstance(error, OSError) and error.errno in CODES:
        return True
    if any(os.strerror(code) in str(error) for code in CODES):
        return True
    before = error.__cause__ or error.__context__
    return before is not None and is_full_disk(before)
