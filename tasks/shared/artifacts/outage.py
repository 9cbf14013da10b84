"""An object store that cannot be reached is an OSError, whichever of the client's libraries met it first."""

from collections.abc import Iterator
from contextlib import contextmanager

# their errors are no OSErrors
CLIENTS = ("boto3", "botocore", "aiobotocore", "aiohttp", "urllib3", "google", "gcsfs")


@contextmanager
def reported_as_outage(root: str) -> Iterator[None]:
    """Raise OSError, one line with the remedy, for a client's own error; anything else goes on as it is."""
    # Broad on purpose: which libraries are below depends on the protocol, and none of them must be imported for it.
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(
            f"{root}: the object store does not answer as it should ({said}); nothing half-written is visible, "
            "run again when it does"
        ) from error
