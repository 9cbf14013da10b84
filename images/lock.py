"""Writes the lock of each image from that of the whole environment: the packages it names, and what they need.

    .venv/bin/python images/lock.py       # after a change of images/locks/*.in or embedded.txt; part of `make lock`

Dependencies are those of the installed packages, versions those of `embedded.txt`, so an image never has a version that
was not tested. A line with a version is what Debian's Python 3.11.2 needs in addition.
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
    for listed in sorted(LOCKS.glob("*.in")):
        roots = [line for line in listed.read_text().splitlines() if line and not line.startswith("#")]
        own = [line for line in roots if "==" in line]
        names = closure([line for line in roots if line not in own])
        lines = sorted([*(pins[name] for name in names), *own], key=str.lower)
        listed.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    return 0


def closure(roots: list[str]) -> set[str]:
    """The canonical names of `roots` and of everything that they need, without extras."""
    waiting, names = [canonicalize_name(name) for name in roots], set[str]()
    while waiting:
        name = waiting.pop()
        if name in names:
            continue
        names.add(name)
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return names


def _read_pins(lock: Path) -> dict[str, str]:
    """Canonical name -> its line in the lock."""
    lines = [line for line in lock.read_text().splitlines() if line]
    return {canonicalize_name(line.partition("==")[0]): line for line in lines}


if __name__ == "__main__":
    sys.exit(main())
