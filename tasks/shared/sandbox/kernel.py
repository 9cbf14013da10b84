"""The Linux calls that Python 3.11 lacks, through ctypes: namespaces, mounts, Landlock, seccomp, prctl.

Every function raises OSError that names the call. Numbers are those of x86-64; `confinement.probe` refuses others.
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_NOATIME = 1, 2, 4, 8, 32, 1024
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
SECCOMP_SET_MODE_FILTER = 1
LISTENER = 1 << 3 | 1 << 5  # SECCOMP_FILTER_FLAG_NEW_LISTENER and _WAIT_KILLABLE_RECV
SYS_PIVOT_ROOT, SYS_CAPSET = 155, 126
SYS_LANDLOCK_CREATE_RULESET, SYS_LANDLOCK_ADD_RULE, SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
SYS_CLOSE_RANGE, SYS_SECCOMP = 436, 317
MADV_COLLAPSE = 25
_NAME_LENGTH = 24
_LETTERS = tuple(letter.encode() for letter in "abcdefghijklmnop")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _RulesetAttr(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def _check(value: int, call: str) -> int:
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")
    return value


def _syscall(call: str, number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), call)


def unshare(flags: int) -> None:
    """Enter new namespaces."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    value = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    )
    _check(value, f"mount {kind or 'bind'} on {target}")


def unmount(target: str) -> None:
    """umount2(2), lazily."""
    _check(_libc.umount2(target.encode(), ctypes.c_int(MNT_DETACH)), f"umount {target}")


def make_unnamed(parent: str, tmpfs: str = "") -> int:
    """Make a directory below `parent` under a random name that is kept nowhere. Returns its descriptor.

    `tmpfs` has the options of a tmpfs to mount there. A process forked later inherits no memory with the name in it.
    """
    path = ctypes.create_string_buffer(parent.encode() + b"/" + bytes(_NAME_LENGTH + 1))
    first = len(path) - _NAME_LENGTH - 2
    try:
        address = ctypes.c_void_p(ctypes.addressof(path) + first)
        _check(_libc.getrandom(address, ctypes.c_size_t(_NAME_LENGTH), ctypes.c_uint(0)), "getrandom")
        for place in range(first, first + _NAME_LENGTH):
            path[place] = _LETTERS[path[place][0] & 15]
        _check(_libc.mkdir(path, ctypes.c_uint(0o700)), f"mkdir in {parent}")
        if tmpfs:
            flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME)
            value = _libc.mount(b"tmpfs", path, b"tmpfs", flags, tmpfs.encode())
            _check(value, f"mount tmpfs in {parent}")
        how = ctypes.c_int(os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return _check(_libc.open(path, how), f"open in {parent}")
    finally:
        ctypes.memset(path, 0, len(path))


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _syscall("pivot_root", SYS_PIVOT_ROOT, new_root.encode(), put_old.encode())


def prctl(option: int, value: int = 0) -> None:
    """prctl(2) with one argument."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def drop_capabilities() -> None:
    """Empty all three capability sets of the calling thread."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _syscall("capset", SYS_CAPSET, header, (ctypes.c_uint32 * 6)())


def close_from(first: int) -> None:
    """Close every descriptor from `first` on."""
    _syscall("close_range", SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(2**32 - 1), ctypes.c_uint(0))


def landlock_abi() -> int:
    """Return the Landlock version of the running kernel; 0 without Landlock."""
    value = _libc.syscall(
        ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(1)
    )
    return max(int(value), 0)


def landlock_ruleset(fs: int, net: int, scoped: int) -> int:
    """Make a ruleset that handles the given rights. Returns its descriptor."""
    attr = _RulesetAttr(fs, net, scoped)
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    number = SYS_LANDLOCK_CREATE_RULESET
    return _syscall("landlock_create_ruleset", number, ctypes.byref(attr), size, ctypes.c_uint32(0))


def landlock_allow(ruleset: int, path_fd: int, rights: int) -> None:
    """Allow `rights` on the file or below the directory."""
    rule = _PathBeneath(rights, path_fd)
    kind, zero = ctypes.c_int(1), ctypes.c_uint32(0)
    number = SYS_LANDLOCK_ADD_RULE
    _syscall("landlock_add_rule", number, ctypes.c_int(ruleset), kind, ctypes.byref(rule), zero)


def landlock_restrict(ruleset: int) -> None:
    """Put the calling thread under the ruleset, for good."""
    _syscall("landlock_restrict_self", SYS_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))


def install_filter(instructions: bytes, flags: int = 0) -> int:
    """Install a seccomp filter: instructions of 8 bytes each (struct sock_filter).

    With `LISTENER` it asks the holder of the returned descriptor (SECCOMP_RET_USER_NOTIF).
    """
    program = _FilterProgram(len(instructions) // 8, instructions)
    mode = ctypes.c_uint(SECCOMP_SET_MODE_FILTER)
    return _syscall("seccomp", SYS_SECCOMP, mode, ctypes.c_uint(flags), ctypes.byref(program))


def collapse_pages(start: int, length: int) -> None:
    """Ask the kernel to gather a range into huge pages now. It may decline."""
    _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(MADV_COLLAPSE))
