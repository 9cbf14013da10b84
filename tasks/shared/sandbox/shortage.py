"""Tells whether the kernel killed a process for lack of memory, or somebody else did, by the kernel's own count.

The cgroup of this process counts the kills in it, whichever limit was met. Without such a count (at the root of the
tree) that of the machine is used.
"""

from __future__ import annotations

import time
from pathlib import Path

from tasks.shared.sandbox.cgroups import own_groups

_CLAIM_S = 5.0
"""Ends of children that were killed together are reported within this time."""


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
