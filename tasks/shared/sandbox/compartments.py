"""The private directory of a child, the Landlock ruleset that names it, and the user it runs as.

A worker keeps a few compartments and uses them again, each time with another directory. Where the worker may mount,
that is a tmpfs of its own with a size; under landlock it lies in one of the tmpfs mounts that the settings name,
emptied, if any.
"""

from __future__ import annotations

import itertools
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.shared.sandbox import kernel
from tasks.shared.sandbox.confinement import Isolation, build_ruleset

FIRST_UID = 1_879_000_000
"""Children of a worker with root's rights run as uids from here on, which no system hands out."""
COMPARTMENTS_A_WORKER = 4096
UIDS_A_SERVER = 16 * COMPARTMENTS_A_WORKER
"""Distance between the first uids of two servers; one of more workers takes several such blocks."""
SCRATCH = "/scratch"
_ENTRIES_A_STEP = 500
_ATTEMPTS = 5


@dataclass(slots=True)
class Compartment:
    """What one child at a time runs in."""

    ruleset: int
    """Landlock ruleset descriptor; -1 in unsafe mode."""
    uid: int
    """The user, where the worker has root's rights."""
    place: str = ""
    """Directory that holds the private one and nothing else, and in which programs cannot write; empty for none."""
    directory: int = -1
    """Descriptor of the private directory, or -1. Its name is random and kept nowhere: others cannot look at it."""


def reserve_uids(workers: int) -> int:
    """The first uid of a range of this server's own; it stays so until the process and all its forks have ended.

    The kernel counts threads by uid over the whole machine, so programs of two servers of root must not share one.
    Names of abstract sockets reserve the ranges. They are seen in one network namespace: servers of root in several
    may still share uids. Raises OSError when no range is left.
    """
    wanted = -(-workers * COMPARTMENTS_A_WORKER // UIDS_A_SERVER)
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


class CompartmentPool:
    """The compartments of one worker."""

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
        self._first_uid = first_uid + worker * COMPARTMENTS_A_WORKER
        self._made = 0
        self._unused = list(scratch)
        self._free: list[Compartment] = []
        self._soiled: list[tuple[Compartment, Iterator[None]]] = []
        self._failures = 0

    @property
    def cleaning(self) -> bool:
        """Whether `clean` has work left."""
        return bool(self._soiled)

    def take(self) -> Compartment | None:
        """One with an empty directory; None while one is being emptied. Raises OSError if none can be made."""
        if self._free:
            return self._free.pop()
        return None if self._soiled else self._make()

    def give_back(self, compartment: Compartment) -> None:
        """Keep the compartment for the next child, with another directory.

        Also where the last one left nothing: dates and inode numbers would tell the next one what it did.
        """
        if compartment.directory < 0:
            self._free.append(compartment)
        elif self._isolation.mode == "namespaces":
            self._unmount(compartment)
            self._furnish(compartment)
            self._free.append(compartment)
        else:
            os.close(compartment.directory)
            self._soiled.append((compartment, emptying(compartment.place)))
            self.clean()

    def clean(self) -> None:
        """Do a part of what is to be emptied, so that thousands of files hold up nobody for long."""
        compartment, steps = self._soiled[0]
        try:
            done = next(steps, self) is self
        except (
            OSError
        ):  # no file can do this, a shortage of the machine might: from the start again, a few times
            self._failures += 1
            if self._failures == _ATTEMPTS:
                raise
            self._soiled[0] = (compartment, emptying(compartment.place))
            return
        if done:
            del self._soiled[0]
            self._failures = 0
            self._furnish(compartment)
            self._free.append(compartment)

    def _make(self) -> Compartment:
        number = self._made
        self._made += 1
        uid = self._first_uid + number % COMPARTMENTS_A_WORKER
        place = ""
        if self._isolation.mode == "namespaces":
            place = f"{SCRATCH}/{number}"
            os.mkdir(place, 0o500)
            if self._isolation.as_root:
                os.chown(place, uid, uid)
        elif self._unused:
            place = self._unused.pop()
            empty(place)
        ruleset = -1
        if self._isolation.mode != "unsafe":
            ruleset = build_ruleset(self._readable, place or None, self._isolation.landlock)
        compartment = Compartment(ruleset, uid, place)
        if place:
            self._furnish(compartment)
        return compartment

    def _furnish(self, compartment: Compartment) -> None:
        """Give the compartment a new private directory: a tmpfs of its own where the worker may mount."""
        if self._isolation.mode == "namespaces":
            owner = f",uid={compartment.uid},gid={compartment.uid}" if self._isolation.as_root else ""
            options = f"size={self._disk_mb}m,nr_inodes=1024,mode=700{owner}"
            compartment.directory = kernel.make_unnamed(compartment.place, options)
        else:
            os.chmod(compartment.place, 0o700)
            compartment.directory = kernel.make_unnamed(compartment.place)
            os.chmod(compartment.place, 0o500)

    def _unmount(self, compartment: Compartment) -> None:
        """Drop the tmpfs with all that is in it, whatever it is."""
        os.fchdir(compartment.directory)
        os.close(compartment.directory)
        kernel.unmount(".")
        os.chdir("/")
        for name in os.listdir(compartment.place):
            os.rmdir(f"{compartment.place}/{name}")


def empty(place: str) -> None:
    """Remove everything below a directory that a hostile program filled."""
    for _ in emptying(place):
        pass


def emptying(place: str) -> Iterator[None]:
    """As `empty`, in parts: a step for every 500 entries.

    Directories are moved up and removed level by level: no recursion, no long paths, no link followed, no name taken
    that could be there. Only what ran in the directory could write there, and it has ended.
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
