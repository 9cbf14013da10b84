"""Turn the errors of object store clients into OSError, whichever of their libraries raised them."""

from collections.abc import Iterator
from contextlib import contextmanager

# their errors are no OSErrors
CLIENTS = ("boto3", "botocore", "aiobotocore", "aiohttp", "urllib3", "google", "gcsfs")


@contextmanager
def reported_as_outage(root: str) -> Iterator[None]:
    """Raise OSError, one line with the remedy, for a client's own error. Other errors pass unchanged."""
    # Broad on purpose: the protocol decides which libraries are involved, and none of them is to be imported here.
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(
            f"{root}: the object store fails ({reason}); nothing half-written is visible, run again when it answers"
        ) from error
