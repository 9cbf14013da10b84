"""Chooses the isolation that this machine allows, and puts a child under it before the child sees a program.

Two stacks give the same protection. `namespaces` (host): the worker lives in its own mount, pid, net, ipc and uts
namespaces with a private root; each child adds a user of its own, Landlock, seccomp and rlimits. `landlock` (container
without namespaces): Landlock, seccomp, rlimits, and the limits of the container.

No protection against: flaws in the kernel or the processor (Spectre); timing, as programs share processors and caches;
under landlock, `stat` of names, sizes and dates of files (contents and listings are refused); a program that forges its
own result (it cannot feign an outage of the sandbox); the total memory of all programs beyond slots x memory_mb; uids
shared by servers of root in different network namespaces, so that each counts the other's threads; the channels between
programs that docs/sandbox.md lists.
"""

from __future__ import annotations

import os
import platform
import resource
import socket
import struct
from dataclasses import dataclass

from tasks.shared.sandbox import kernel
from tasks.shared.sandbox.records import SandboxSettings, SandboxUnavailable

FS_EXECUTE, FS_WRITE_FILE, FS_READ_FILE, FS_READ_DIR = 1, 2, 4, 8
FS_REFER, FS_TRUNCATE, FS_IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
FS_ALL = (1 << 16) - 1
FS_DEVICES = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11  # make character device, socket, fifo, block device
FS_PRIVATE = FS_ALL & ~(FS_EXECUTE | FS_DEVICES | FS_IOCTL_DEV)
NET_TCP, SCOPE_ABSTRACT_AND_SIGNAL = 3, 3
ABI_NAMESPACES, ABI_LANDLOCK = 3, 6
CHANNEL_FD = 3
"""The only descriptor besides 0, 1 and 2 that a child has."""
STACK_BYTES = 64 << 20
"""Limit of the main thread's stack, beside the memory limit. Recursion through C code needs it."""
MEMORY_RESERVE = 32 << 20
"""Bytes kept back for the traceback of a MemoryError."""
_ADDRESSES = 8 << 30
"""Addresses that a program may reserve beside its memory."""
PID_PLACEHOLDER = 0x7FFFFFF1
"""Stands for the child's pid in the seccomp filter, which is built once."""
_RLIMIT_SIGPENDING = 11  # Python 3.11 has no name for it
WORKER_NAMESPACES = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
)


@dataclass(frozen=True, slots=True)
class Isolation:
    """The isolation in force."""

    mode: str
    """namespaces, landlock or unsafe."""
    as_root: bool = False
    """Under namespaces: the server is root and gives children unused uids. Otherwise it uses a user namespace."""
    landlock: int = 0
    """Landlock version of the kernel."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Everything that a worker knows."""

    isolation: Isolation
    sandbox: SandboxSettings
    readable: tuple[str, ...]
    """Libraries that programs may read."""
    warm_bytes: int
    """Data of the warm interpreter."""
    template: bytes
    """The seccomp filter, made once."""
    first_uid: int
    """First of the server's own uids, for children of a worker that is root."""


@dataclass(slots=True)
class Compartment:
    """The environment of one child at a time."""

    ruleset: int
    """Landlock ruleset descriptor; -1 in unsafe mode."""
    uid: int
    """The user of the child, if the worker is root."""
    parent: str = ""
    """Directory that contains only the private directory, and in which programs cannot write; "" for none."""
    directory: int = -1
    """Descriptor of the private directory, or -1. Its name is random and stored nowhere, so others cannot find it."""


def _try_unshare(extra: int) -> bool:
    """Whether a child process may enter the namespaces, and the namespaces of `extra`, and mount in them."""
    child = os.fork()
    if child == 0:
        try:
            kernel.unshare(WORKER_NAMESPACES | extra)
            kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
            kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID)
            if not extra:
                os.setresuid(2**30, 2**30, 2**30)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def probe(setting: str, allow_unsafe: bool) -> Isolation:
    """Choose the isolation. Raises SandboxUnavailable with what is missing and the remedy."""
    missing: list[str] = []
    is_x86 = platform.machine() == "x86_64" and struct.calcsize("P") == 8
    if not is_x86:
        missing.append(f"the seccomp filter is written for 64-bit x86, this is {platform.machine()}")
    abi = kernel.landlock_abi()
    if is_x86 and setting in ("auto", "namespaces"):
        as_root = _try_unshare(0)
        if not as_root and not _try_unshare(kernel.CLONE_NEWUSER):
            missing.append(
                "namespaces are refused here: sysctl kernel.unprivileged_userns_clone=1 (or "
                "kernel.apparmor_restrict_unprivileged_userns=0), or start as root"
            )
        elif abi < ABI_NAMESPACES:
            missing.append(f"Landlock {abi} is too old: Linux 6.2 with lsm=landlock is needed")
        else:
            return Isolation("namespaces", as_root, abi)
    if is_x86 and setting in ("auto", "landlock"):
        if abi >= ABI_LANDLOCK:
            return Isolation("landlock", False, abi)
        missing.append(
            f"Landlock {abi} cannot stand alone: Linux 6.12 (Landlock 6) with lsm=landlock is needed, and a "
            "container profile that lets the landlock_* calls through (Docker 23 or newer)"
        )
    if allow_unsafe:
        return Isolation("unsafe")
    raise SandboxUnavailable(
        "the sandbox cannot isolate programs here: " + "; ".join(missing) + ". "
        "allow_unsafe = true runs them unprotected and marks every report made so."
    )


def build_ruleset(readable: tuple[str, ...], private: str | None, abi: int) -> int:
    """Make a Landlock ruleset: read the libraries, use /dev/null, write in the private directory, nothing else.

    Returns its descriptor. Paths that do not exist are left out.
    """
    fs = FS_ALL & ~(FS_IOCTL_DEV if abi < 5 else 0)
    net, scoped = (NET_TCP if abi >= 4 else 0), (SCOPE_ABSTRACT_AND_SIGNAL if abi >= 6 else 0)
    ruleset = kernel.landlock_ruleset(fs, net, scoped)
    rules = [(path, FS_READ_FILE | FS_READ_DIR) for path in readable]
    rules += [("/dev/null", FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE), ("/dev/urandom", FS_READ_FILE)]
    if private is not None:
        rules.append((private, FS_PRIVATE & fs))
    for path, rights in rules:
        if not os.path.exists(path):
            continue
        directory = os.path.isdir(path)
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            kernel.landlock_allow(ruleset, descriptor, rights if directory else rights & ~FS_READ_DIR)
        finally:
            os.close(descriptor)
    return ruleset


def confine(settings: WorkerSettings, compartment: Compartment, channel: int) -> socket.socket:
    """Put the calling, freshly forked child under its isolation. Returns its only channel.

    The order matters: the user changes first, because that clears the death signal; then Landlock; then all other
    descriptors are closed; seccomp comes last, because it refuses most of these calls.
    """
    isolation, uid = settings.isolation, compartment.uid
    if compartment.directory >= 0:
        os.fchdir(compartment.directory)
    else:
        os.chdir("/")
    os.umask(0o077)
    if isolation.mode == "namespaces":
        if isolation.as_root:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        else:
            kernel.unshare(kernel.CLONE_NEWUSER)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # no core file, and /proc does not show its descriptors
    # Standard input is opened anew, because processes that share a file description see each other's flags.
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    if isolation.mode != "unsafe":
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.landlock_restrict(compartment.ruleset)
        kernel.drop_capabilities()
    _limit_at_most(resource.RLIMIT_STACK, STACK_BYTES)
    os.dup2(channel, CHANNEL_FD)
    kernel.close_from(CHANNEL_FD + 1)
    wire = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=CHANNEL_FD)
    if isolation.mode != "unsafe":
        placeholder, pid = struct.pack("=I", PID_PLACEHOLDER), struct.pack("=I", os.getpid())
        kernel.install_filter(settings.template.replace(placeholder, pid))
    return wire


def limit_resources(memory_bytes: int, warm_bytes: int, open_files: int, file_bytes: int) -> None:
    """Set the limits of the calling child. The hard limit on memory leaves room to format a traceback.

    The memory limit counts private writable mappings, which a process can fill. It does not count mappings that only
    take addresses (malloc's reserve for each thread, shared objects of libraries). Addresses have a generous limit of
    their own, since page tables are memory too. The seccomp filter refuses mappings that would escape the count.
    """
    data = warm_bytes + memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (data, data + MEMORY_RESERVE))
    _limit_at_most(resource.RLIMIT_AS, data + _ADDRESSES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    # No signal may be queued: the count is per user, and under landlock all programs share a user.
    resource.setrlimit(_RLIMIT_SIGPENDING, (0, 0))


def _limit_at_most(kind: int, value: int) -> None:
    """Set a limit, or the server's own hard limit if that is lower."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
