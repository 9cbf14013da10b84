"""What lies in a scratch directory belongs to one request: state of another is never taken up.

Under the launcher a scratch directory is named after its request; by hand any may be given.
"""

import json
from pathlib import Path

from tasks.shared.config.differences import differences
from tasks.shared.contract.documents import write_whole

OWNER = "request.fingerprint"
REMEDY = "remove it or use another scratch directory"


def require_same(found: str, wanted: str, where: Path, what: str, remedy: str = REMEDY) -> None:
    """ValueError, naming what differs, if `found` is not the fingerprint `wanted`.

    Args:
        found: the fingerprint that was kept with what lies in `where`; "" if there is none.
        wanted: that of this request (`StageContext.fingerprint`).
        where: file or directory.
        what: what lies there, in the plural.
        remedy: what to do about it.
    """
    if found == wanted:
        return
    changed = differences(json.loads(found), json.loads(wanted)) if found else []
    difference = f" ({changed[0]})" if changed else ""
    raise ValueError(f"{where}: {what} of another request{difference}; {remedy}")


def claim(directory: Path, fingerprint: str, what: str, remedy: str = REMEDY) -> None:
    """Note whose the directory is, made if it is not there. ValueError if something of another request lies in it."""
    directory.mkdir(parents=True, exist_ok=True)
    owner = directory / OWNER
    if owner.is_file() or any(directory.iterdir()):
        found = owner.read_text() if owner.is_file() else ""
        require_same(found, fingerprint, directory, what, remedy)
    write_whole(owner, fingerprint)
