"""The cgroups of this process, of the second and the first version of the file system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def own_groups(controller: str, cgroups: Path = CGROUPS) -> Iterator[tuple[bool, Path, Path]]:
    """Yield (whether it is version 2, top of the hierarchy, own group) of each hierarchy with this controller."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers in ("", controller):
            top = cgroups / controllers
            yield not controllers, top, top / name.lstrip("/")
