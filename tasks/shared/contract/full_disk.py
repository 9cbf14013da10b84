"""Report a full disk as such, whichever error it causes: writers of other projects raise classes of their own."""

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
    """No space is left. The message says what to do, and `filename` where."""


@contextmanager
def reported_as_full_disk(message: str, where: str) -> Iterator[None]:
    """Raise FullDisk, "no space left <message>", if the block fails because of a full disk."""
    # Broad on purpose: safetensors, Arrow and torch raise classes of their own with the system's message in them.
    try:
        yield
    except FullDisk:
        raise
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise FullDisk(errno.ENOSPC, f"no space left {message}", where) from error


def is_full_disk(error: BaseException) -> bool:
    """Whether the error, or one of its causes, says that no space is left."""
    if isinstance(error, OSError) and error.errno in CODES:
        return True
    if any(os.strerror(code) in str(error) for code in CODES):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_full_disk(cause)
