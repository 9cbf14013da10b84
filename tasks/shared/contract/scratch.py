"""A scratch directory belongs to one request, and the state of another request is never used.

The launcher names the directory after the request. A stage that is run by hand may be given any directory.
"""

import json
from pathlib import Path

from tasks.shared.config.differences import differences
from tasks.shared.contract.documents import write_whole

OWNER = "request.fingerprint"
REMEDY = "remove it or use another scratch directory"


def require_same(found: str, expected: str, where: Path, what: str, remedy: str = REMEDY) -> None:
    """Raise ValueError that names the first difference if two fingerprints differ.

    Args:
        found: the fingerprint stored with the content of `where`, or "".
        expected: that of this request (`StageContext.fingerprint`).
        where: file or directory.
        what: its content, in the plural.
        remedy: what to do about it.
    """
    if found == expected:
        return
    changed = differences(json.loads(found), json.loads(expected)) if found else []
    difference = f" ({changed[0]})" if changed else ""
    raise ValueError(f"{where}: {what} of another request{difference}; {remedy}")


def claim(directory: Path, fingerprint: str, what: str, remedy: str = REMEDY) -> None:
    """Make the directory and note its request. Raises ValueError if it has content of another request."""
    directory.mkdir(parents=True, exist_ok=True)
    owner = directory / OWNER
    if owner.is_file() or any(directory.iterdir()):
        found = owner.read_text() if owner.is_file() else ""
        require_same(found, fingerprint, directory, what, remedy)
    write_whole(owner, fingerprint)
