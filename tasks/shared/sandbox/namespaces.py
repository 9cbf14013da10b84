"""The worker's own namespaces, with a root that contains libraries only.

The rest of the host's file system is not only forbidden but absent. The new root is a small read-only tmpfs with the
interpreter's libraries mounted read-only at their own paths, /dev/null, /dev/urandom, and /scratch for the private
directories.
"""

from __future__ import annotations

import os

from tasks.shared.sandbox import kernel
from tasks.shared.sandbox.compartments import SCRATCH
from tasks.shared.sandbox.confinement import WORKER_NAMESPACES, Isolation

_FLAGS_KEPT = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME
_ROOT = "/tmp"
_DEVICES = ("/dev/null", "/dev/urandom")


def enter(isolation: Isolation) -> None:
    """Leave the host's namespaces. The next fork is process 1 of the new ones."""
    if isolation.as_root:
        kernel.unshare(WORKER_NAMESPACES)
        return
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(WORKER_NAMESPACES | kernel.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as handle:
            handle.write(text)


def build_root(readable: tuple[str, ...]) -> None:
    """Replace the root of the calling process's mount namespace. Raises OSError that names the mount."""
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    sources = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in (*readable, *_DEVICES)]
    links = [(path, os.readlink(path)) for path in ("/lib", "/lib64", "/bin") if os.path.islink(path)]
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", _ROOT, "tmpfs", flags, "size=1m,nr_inodes=4096,mode=755")
    for path, target in links:
        os.symlink(target, _ROOT + path)
    for path, descriptor in sources:
        _bind(path, descriptor)
        os.close(descriptor)
    # Programs expect /tmp, which a container has too. Readable paths may lie below it.
    os.makedirs(_ROOT + "/tmp", 0o755, exist_ok=True)
    os.mkdir(_ROOT + SCRATCH, 0o755)
    kernel.mount("tmpfs", _ROOT + SCRATCH, "tmpfs", flags, "size=1m,nr_inodes=16384,mode=711")
    os.chdir(_ROOT)
    kernel.pivot_root(".", ".")
    kernel.unmount(".")
    os.chdir("/")
    kernel.mount("none", "/", "", flags | kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY)


def _bind(path: str, descriptor: int) -> None:
    """Mount the opened source at the same path below the new root, read-only."""
    source, target = f"/proc/self/fd/{descriptor}", _ROOT + path
    device = path in _DEVICES
    if os.path.isdir(source):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        if not os.path.lexists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    kernel.mount(source, target, "", kernel.MS_BIND)
    # Repeat the flags of the host's mount: a user namespace may not clear them.
    kept = os.statvfs(target).f_flag & _FLAGS_KEPT
    if os.statvfs(target).f_flag & os.ST_RELATIME:
        kept |= 1 << 21
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_NOSUID | kept
    kernel.mount("none", target, "", flags | (0 if device else kernel.MS_RDONLY | kernel.MS_NODEV))
