"""What the cgroups of this process (v1 or v2) allow and count: processes, and kills for lack of memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_CLAIM_S = 5.0
"""Ends of children that were killed together are reported within this time."""


def own_groups(controller: str, cgroups: Path = CGROUPS) -> Iterator[tuple[bool, Path, Path]]:
    """Yield (whether it is version 2, top of the hierarchy, own group) of each hierarchy with this controller."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers in ("", controller):
            top = cgroups / controllers
            yield not controllers, top, top / name.lstrip("/")


def processes_left(cgroups: Path = CGROUPS) -> int | None:
    """Return how many more processes the cgroup of this process may have; None without a bound."""
    left: list[int] = []
    for _, top, group in own_groups("pids", cgroups):
        for level in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
            try:
                limit = (level / "pids.max").read_text().strip()
                if limit != "max":
                    left.append(int(limit) - int((level / "pids.current").read_text()))
            except OSError:
                continue  # the root of the tree has no such files, and a container may hide its own
    return min(left, default=None)


class OutOfMemoryKills:
    """The count of such kills. The broker asks when a child got SIGKILL."""

    def __init__(self) -> None:
        self._files = []
        for is_v2, top, group in own_groups("memory"):  # in a container the count may be at the top
            name = "memory.events" if is_v2 else "memory.oom_control"
            self._files += [group / name, top / name]
        self._files.append(Path("/proc/vmstat"))
        self._seen = self._count()
        self._unclaimed = 0
        self._noticed = 0.0

    def happened(self) -> bool:
        """Whether the latest SIGKILL was such a kill. Each kill explains one SIGKILL, for a short time."""
        count, now = self._count(), time.monotonic()
        if count > self._seen:
            self._unclaimed, self._seen, self._noticed = count - self._seen, count, now
        if not self._unclaimed or now - self._noticed > _CLAIM_S:
            return False
        self._unclaimed -= 1
        return True

    def _count(self) -> int:
        for path in self._files:
            try:
                lines = path.read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0
