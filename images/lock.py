"""Writes the locks of single images from that of the whole environment: what they name, and what that needs.

    .venv/bin/python images/lock.py       # after a change of images/locks/*.in or embedded.txt; `make lock` does it

Dependencies are read from the installed packages, versions from `embedded.txt`, so an image never holds a version
that the tests did not see. A line with a version of its own is what Python 3.11.2, Debian's, needs beside that.
"""

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = Path(__file__).parent / "locks"


def main() -> int:
    """Write <image>.txt beside every <image>.in."""
    pins = _read_pins(LOCKS / "embedded.txt")
    for wanted in sorted(LOCKS.glob("*.in")):
        roots = [line for line in wanted.read_text().splitlines() if line and not line.startswith("#")]
        own = [line for line in roots if "==" in line]
        names = closure([line for line in roots if line not in own])
        lines = sorted([*(pins[name] for name in names), *own], key=str.lower)
        wanted.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    return 0


def closure(roots: list[str]) -> set[str]:
    """The canonical names of `roots` and of everything that these need, extras left out."""
    waiting, found = [canonicalize_name(name) for name in roots], set[str]()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def _read_pins(lock: Path) -> dict[str, str]:
    """Canonical name -> its line in the lock."""
    lines = [line for line in lock.read_text().splitlines() if line]
    return {canonicalize_name(line.partition("==")[0]): line for line in lines}


if __name__ == "__main__":
    sys.exit(main())
