"""Whether the kernel has killed for want of memory: told from a kill by somebody else by the kernel's own count.

The cgroup of this process counts what was killed in it, whichever limit was met; where it has no count (the root of the
tree), the machine's is taken.
"""

from __future__ import annotations

import time
from pathlib import Path

_CLAIM_S = 5.0
"""Ends of children that were killed together are told within this time."""
_CGROUPS = Path("/sys/fs/cgroup")


class OutOfMemoryKills:
    """The count of such kills; the server asks when a child was killed."""

    def __init__(self) -> None:
        self._files = [*_counts_of_own_cgroup(), Path("/proc/vmstat")]
        self._seen = self._count()
        self._unclaimed = 0
        self._noticed = 0.0

    def happened(self) -> bool:
        """Whether the kill that is asked about was one. Each is counted once, and not long after."""
        seen, now = self._count(), time.monotonic()
        if seen > self._seen:
            self._unclaimed, self._seen, self._noticed = seen - self._seen, seen, now
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


def _counts_of_own_cgroup() -> list[Path]:
    """Files that hold the count, of the second and the first version of cgroups; in a container at the top as well."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        name = name.lstrip("/")
        if controllers == "":
            found += [_CGROUPS / name / "memory.events", _CGROUPS / "memory.events"]
        elif controllers == "memory":
            found += [
                _CGROUPS / "memory" / name / "memory.oom_control",
                _CGROUPS / "memory/memory.oom_control",
            ]
    return found
