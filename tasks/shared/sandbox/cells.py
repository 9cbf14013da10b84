"""The private directory of a child, the Landlock ruleset that names it, and the user it runs as.

A worker keeps a few cells and uses them again, emptied. Where the worker may mount, each cell is a tmpfs
of its own with a size; under landlock they are the tmpfs mounts that the settings name, or none at all.
"""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass

from tasks.shared.sandbox import kernel
from tasks.shared.sandbox.confinement import Isolation, build_ruleset

FIRST_UID = 1_879_000_000
"""Children of a worker with root's rights run as uids from here on, which no system hands out."""
CELLS_A_WORKER = 4096
UIDS_A_SERVER = 16 * CELLS_A_WORKER
"""Distance between the first uids of two servers; one of more workers takes several such blocks."""
SCRATCH = "/scratch"


@dataclass(frozen=True, slots=True)
class Cell:
    """What one child at a time runs in."""

    directory: str | None
    """Private directory, or None where there is none."""
    ruleset: int
    """Landlock ruleset descriptor; -1 in unsafe mode."""
    uid: int
    """The user, where the worker has root's rights."""


def reserve_uids(workers: int) -> int:
    """The first uid of a range of this server's own; it stays so until the process and all its forks have ended.

    The kernel counts threads by uid over the whole machine, so programs of two servers of root must not share one.
    Names of abstract sockets reserve the ranges. They are seen in one network namespace: servers of root in several
    may still share uids. Raises OSError when no range is left.
    """
    wanted = -(-workers * CELLS_A_WORKER // UIDS_A_SERVER)
    held: list[int] = []
    for place in range((2**32 - 1 - FIRST_UID) // UIDS_A_SERVER):
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0tirflow-sandbox-uids-{place}")
        except OSError:
            name.close()
            while held:
                os.close(held.pop())
            continue
        held.append(name.detach())  # open for good
        if len(held) == wanted:
            return FIRST_UID + (place - wanted + 1) * UIDS_A_SERVER
    raise OSError("all ranges of users for programs are taken by other sandbox servers")


class CellPool:
    """The cells of one worker."""

    def __init__(
        self,
        isolation: Isolation,
        readable: tuple[str, ...],
        worker: int,
        disk_mb: int,
        scratch: tuple[str, ...],
        first_uid: int,
    ) -> None:
        self._isolation, self._readable, self._disk_mb = isolation, readable, disk_mb
        self._first_uid = first_uid + worker * CELLS_A_WORKER
        self._made = 0
        self._unused = list(scratch)
        self._free: list[Cell] = []

    def take(self) -> Cell:
        """A cell with an empty directory. Raises OSError if none can be made."""
        return self._free.pop() if self._free else self._make()

    def give_back(self, cell: Cell) -> None:
        """Empty the cell's directory and keep it for the next child."""
        if cell.directory is not None:
            empty(cell.directory)
        self._free.append(cell)

    def _make(self) -> Cell:
        number = self._made
        self._made += 1
        uid = self._first_uid + number % CELLS_A_WORKER
        directory: str | None = None
        if self._isolation.mode == "namespaces":
            directory = f"{SCRATCH}/{number}"
            os.mkdir(directory, 0o700)
            owner = f",uid={uid},gid={uid}" if self._isolation.as_root else ""
            options = f"size={self._disk_mb}m,nr_inodes=1024,mode=700{owner}"
            flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
            kernel.mount("tmpfs", directory, "tmpfs", flags, options)
        elif self._unused:
            directory = self._unused.pop()
            empty(directory)
        if self._isolation.mode == "unsafe":
            return Cell(directory, -1, uid)
        return Cell(directory, build_ruleset(self._readable, directory, self._isolation.landlock), uid)


def empty(directory: str) -> None:
    """Remove everything below a directory that a hostile program filled.

    Directories are moved up and removed level by level: no recursion, no long paths, no link followed.
    """
    number = 0
    pending = os.listdir(directory)
    while pending:
        path = os.path.join(directory, pending.pop())
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            continue
        os.chmod(path, 0o700)
        for name in os.listdir(path):
            inner = os.path.join(path, name)
            if stat.S_ISDIR(os.lstat(inner).st_mode):
                number += 1
                moved = _free_name(directory, number)
                os.chmod(inner, 0o700)
                os.rename(inner, os.path.join(directory, moved))
                pending.append(moved)
            else:
                os.unlink(inner)
        os.rmdir(path)


def _free_name(directory: str, number: int) -> str:
    name = f"emptied-{number}"
    while os.path.lexists(os.path.join(directory, name)):
        name += "-"
    return name
