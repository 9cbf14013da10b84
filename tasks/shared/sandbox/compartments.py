"""The private directory of a child, the Landlock ruleset for it, and the user that the child runs as.

A worker reuses a few compartments, each time with a new directory. Under namespaces that is a new tmpfs with a size
limit. Under landlock it lies in one of the tmpfs mounts that the settings name, if any, which is emptied before.
"""

from __future__ import annotations

import itertools
import os
import socket
import stat
from collections.abc import Iterator

from tasks.shared.sandbox import kernel
from tasks.shared.sandbox.confinement import Compartment, WorkerSettings, build_ruleset

FIRST_UID = 1_879_000_000
"""Under root, children run as uids from here on, which no system assigns."""
COMPARTMENTS_A_WORKER = 4096
UIDS_A_SERVER = 16 * COMPARTMENTS_A_WORKER
"""Distance between the first uids of two servers. A server of more than 16 workers takes several such ranges."""
SCRATCH = "/scratch"
_ENTRIES_A_STEP = 500
_ATTEMPTS = 5


def reserve_uids(workers: int) -> int:
    """Reserve a range of uids for this server, until the process and all its forks end. Returns the first uid.

    The kernel counts threads by uid over the whole machine, so programs of two servers of root must not share one.
    Names of abstract sockets reserve the ranges. They are visible in one network namespace only, so servers of root in
    different ones may still share uids. Raises OSError when no range is left.
    """
    num_ranges = -(-workers * COMPARTMENTS_A_WORKER // UIDS_A_SERVER)
    held: list[int] = []
    for number in range((2**32 - 1 - FIRST_UID) // UIDS_A_SERVER):
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0tirflow-sandbox-uids-{number}")
        except OSError:
            lock.close()
            while held:
                os.close(held.pop())
            continue
        held.append(lock.detach())  # stays open
        if len(held) == num_ranges:
            return FIRST_UID + (number - num_ranges + 1) * UIDS_A_SERVER
    raise OSError("all ranges of users for programs are taken by other sandbox servers")


class CompartmentPool:
    """The compartments of one worker."""

    def __init__(self, settings: WorkerSettings, worker: int) -> None:
        self._settings, self._isolation = settings, settings.isolation
        self._first_uid = settings.first_uid + worker * COMPARTMENTS_A_WORKER
        self._num_made = 0
        self._unused = list(settings.sandbox.scratch_dirs[worker :: settings.sandbox.workers])
        self._free: list[Compartment] = []
        self._used: list[tuple[Compartment, Iterator[None]]] = []
        self._failures = 0

    @property
    def cleaning(self) -> bool:
        """Whether `clean` has work left."""
        return bool(self._used)

    def take(self) -> Compartment | None:
        """Take a compartment with an empty directory, or None while one is being emptied. Raises OSError."""
        if self._free:
            return self._free.pop()
        return None if self._used else self._make()

    def give_back(self, compartment: Compartment) -> None:
        """Keep the compartment for the next child, with a new directory.

        The directory is new even if the last child left nothing in it: dates and inode numbers would show what it did.
        """
        if compartment.directory < 0:
            self._free.append(compartment)
        elif self._isolation.mode == "namespaces":
            self._unmount(compartment)
            self._reuse(compartment)
        else:
            os.close(compartment.directory)
            self._used.append((compartment, emptying(compartment.parent)))
            self.clean()

    def clean(self) -> None:
        """Empty a part of a used directory. Thousands of files would otherwise delay other programs."""
        compartment, steps = self._used[0]
        try:
            done = next(steps, self) is self
        except OSError:  # caused by a shortage of the machine, never by files: start over a few times
            self._failures += 1
            if self._failures == _ATTEMPTS:
                raise
            self._used[0] = (compartment, emptying(compartment.parent))
            return
        if done:
            del self._used[0]
            self._failures = 0
            self._reuse(compartment)

    def _make(self) -> Compartment:
        number = self._num_made
        self._num_made += 1
        uid = self._first_uid + number % COMPARTMENTS_A_WORKER
        parent = ""
        if self._isolation.mode == "namespaces":
            parent = f"{SCRATCH}/{number}"
            os.mkdir(parent, 0o500)
            if self._isolation.as_root:
                os.chown(parent, uid, uid)
        elif self._unused:
            parent = self._unused.pop()
            for _ in emptying(parent):
                pass
        ruleset = -1
        if self._isolation.mode != "unsafe":
            ruleset = build_ruleset(self._settings.readable, parent or None, self._isolation.landlock)
        compartment = Compartment(ruleset, uid, parent)
        if parent:
            self._make_directory(compartment)
        return compartment

    def _reuse(self, compartment: Compartment) -> None:
        self._make_directory(compartment)
        self._free.append(compartment)

    def _make_directory(self, compartment: Compartment) -> None:
        """Make a new private directory, under namespaces a tmpfs of its own."""
        if self._isolation.mode == "namespaces":
            owner = f",uid={compartment.uid},gid={compartment.uid}" if self._isolation.as_root else ""
            options = f"size={self._settings.sandbox.limits.disk_mb}m,nr_inodes=1024,mode=700{owner}"
            compartment.directory = kernel.make_unnamed(compartment.parent, options)
        else:
            os.chmod(compartment.parent, 0o700)
            compartment.directory = kernel.make_unnamed(compartment.parent)
            os.chmod(compartment.parent, 0o500)

    def _unmount(self, compartment: Compartment) -> None:
        """Remove the tmpfs with all its content."""
        os.fchdir(compartment.directory)
        os.close(compartment.directory)
        kernel.unmount(".")
        os.chdir("/")
        for name in os.listdir(compartment.parent):
            os.rmdir(f"{compartment.parent}/{name}")


def emptying(place: str) -> Iterator[None]:
    """Remove everything below a directory that a hostile program filled, with a pause after every 500 entries.

    Directories are moved up and removed level by level: no recursion, no long paths, no link followed, and no name used
    that could exist. Only programs that ran in the directory could write there, and they have ended.
    """
    os.chmod(place, 0o700)
    root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pending = os.listdir(root)
        taken = set(pending)
        names = (str(number) for number in itertools.count() if str(number) not in taken)
        removed = 0
        while pending:
            name = pending.pop()
            if not _is_directory(name, root):
                os.unlink(name, dir_fd=root)
                continue
            os.chmod(name, 0o700, dir_fd=root)
            level = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
            try:
                for inner in os.listdir(level):
                    removed += 1
                    if removed % _ENTRIES_A_STEP == 0:
                        yield
                    if not _is_directory(inner, level):
                        os.unlink(inner, dir_fd=level)
                        continue
                    os.chmod(inner, 0o700, dir_fd=level)
                    pending.append(next(names))
                    os.rename(inner, pending[-1], src_dir_fd=level, dst_dir_fd=root)
            finally:
                os.close(level)
            os.rmdir(name, dir_fd=root)
    finally:
        os.close(root)


def _is_directory(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
