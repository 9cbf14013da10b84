"""The filter's verdict on calls and arguments, by a small interpreter of BPF."""

from __future__ import annotations

import struct

import pytest

from tasks.shared.sandbox import seccomp

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
ASK = 0x7FC00000
DONE, EAGAIN, EINVAL, ENOMEM = 0x00050000, 0x0005000B, 0x00050016, 0x0005000C
X86_64, I386 = 0xC000003E, 0x40000003
PID = 4321


def verdict(
    number: int, arguments: tuple[int, ...] = (), arch: int = X86_64, code: bytes = seccomp.build_filter(PID)
) -> int:
    """The kernel's verdict, by running the program on the call's data."""
    program = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, arch, 0, *(value & (2**64 - 1) for value in padded))
    accumulator, at = 0, 0
    while True:
        operation, jump_true, jump_false, k = program[at]
        at += 1
        if operation == 0x06:
            return int(k)
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0xA4:
            accumulator ^= k
        elif operation == 0x74:
            accumulator >>= k
        elif operation == 0x05:
            at += k
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[operation]
            at += jump_true if holds else jump_false


@pytest.mark.parametrize("name", sorted(seccomp.ALLOWED))
def test_listed_calls_are_allowed(name: str) -> None:
    assert verdict(seccomp.ALLOWED[name]) == ALLOW


REFUSED = {
    "socket": 41, "connect": 42, "accept": 43, "sendmsg": 46, "bind": 49, "listen": 50, "fork": 57, "vfork": 58,
    "execve": 59, "shmget": 29, "msgget": 68, "chmod": 90, "fchmod": 91, "chown": 92, "ptrace": 101, "setuid": 105,
    "setpgid": 109, "setsid": 112, "setresuid": 117, "capset": 126, "utime": 132, "mknod": 133, "personality": 135,
    "setpriority": 141, "mlock": 149, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166, "reboot": 169,
    "init_module": 175, "setxattr": 188, "tkill": 200, "io_setup": 206, "mq_open": 240, "add_key": 248, "keyctl": 250,
    "inotify_init": 253, "unshare": 272, "splice": 275, "perf_event_open": 298, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
    "seccomp": 317, "memfd_create": 319, "bpf": 321, "execveat": 322, "userfaultfd": 323, "mincore": 27,
    "pidfd_send_signal": 424, "flock": 73, "setsockopt": 54, "timer_create": 222, "timer_settime": 223,
    "timer_gettime": 224, "timer_getoverrun": 225, "timer_delete": 226, "statfs": 137, "fstatfs": 138, "sysinfo": 99,
    "capget": 125, "membarrier": 324, "utimensat": 280, "sched_setaffinity": 203, "ioprio_get": 252, "getxattr": 191,
    "semget": 64, "inotify_add_watch": 254, "fanotify_init": 300, "sync_file_range": 277, "readahead": 187,
    "setrlimit": 160,
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_dangerous_calls_are_refused(name: str) -> None:
    assert verdict(REFUSED[name]) == EPERM


PRETENDED = {74: "fsync", 75: "fdatasync", 221: "fadvise64"}


@pytest.mark.parametrize("number", PRETENDED)
def test_calls_that_reach_the_host_fail_with_an_errno(number: int) -> None:
    assert verdict(number, (3,)) == DONE


@pytest.mark.parametrize("name", seccomp.OF_ITSELF)
def test_no_other_process_can_be_looked_at(name: str) -> None:
    number = seccomp.OF_ITSELF[name]
    assert [verdict(number, (pid,)) for pid in (0, PID, 1, PID + 1)] == [ALLOW, ALLOW, EPERM, EPERM]


@pytest.mark.parametrize("name", seccomp.CLOCKS)
def test_clock_of_no_other_process_can_be_read(name: str) -> None:
    def process_clock(pid: int, thread: int = 0) -> int:
        return (~pid << 3 | thread | 2) & 0xFFFFFFFF

    number = seccomp.CLOCKS[name]
    for clock in (0, 1, 2, 3, 7, 11, process_clock(0), process_clock(PID), process_clock(99, thread=4)):
        assert verdict(number, (clock,)) == ALLOW, clock
    for clock in (process_clock(1), process_clock(PID + 1), process_clock(PID - 1), 5 << 3 | 3 | 1 << 31):
        assert verdict(number, (clock,)) == EPERM, clock


def test_every_call_number_has_a_verdict_and_unknown_ones_fail() -> None:
    known = set(seccomp.ALLOWED.values())
    by_argument = {seccomp.CLONE, seccomp.KILL, seccomp.TGKILL, seccomp.PRCTL, seccomp.IOCTL, seccomp.FCNTL}
    by_argument |= {seccomp.PRLIMIT64, seccomp.SOCKETPAIR, seccomp.SENDTO, seccomp.GETSOCKOPT, seccomp.FUTEX}
    by_argument |= {seccomp.MMAP, seccomp.MADVISE, seccomp.GETPRIORITY, *seccomp.CLOCKS.values()}
    by_argument |= {*seccomp.OF_ITSELF.values(), *PRETENDED}
    for number in range(600):
        if number not in known and number not in by_argument:
            assert verdict(number) in (EPERM, ENOSYS), number
    assert verdict(425) == ENOSYS, "io_uring_setup"
    assert verdict(seccomp.CLONE3) == ENOSYS


def test_other_architectures_and_x32_are_killed() -> None:
    assert verdict(seccomp.ALLOWED["read"], arch=I386) == KILL
    assert verdict(0x40000000 | seccomp.ALLOWED["read"]) == KILL


CHECKED = [
    (seccomp.CLONE, (0x3D0F00,), ALLOW, "a thread, as glibc makes them"),
    (seccomp.CLONE, (0x1200011,), EPERM, "a process, as fork makes them"),
    (seccomp.CLONE, (0x10000 | 0x10000000,), EPERM, "a thread in a new user namespace"),
    (seccomp.KILL, (PID, 15), ALLOW, "a signal to itself"),
    (seccomp.KILL, (PID, 9), EPERM, "SIGKILL to itself"),
    (seccomp.KILL, (PID, 19), EPERM, "SIGSTOP to itself"),
    (seccomp.KILL, (1, 15), EPERM, "a signal to another"),
    (seccomp.KILL, (-1, 15), EPERM, "a signal to all"),
    (seccomp.KILL, (0, 15), EPERM, "a signal to the group"),
    (seccomp.TGKILL, (PID, 7, 6), ALLOW, "abort"),
    (seccomp.TGKILL, (99, 7, 6), EPERM, "a thread of another"),
    (seccomp.PRCTL, (15,), ALLOW, "set a thread's name"),
    (seccomp.PRCTL, (1,), EPERM, "change the death signal"),
    (seccomp.PRCTL, (22,), EPERM, "another filter"),
    (seccomp.IOCTL, (0, 0x5401), ALLOW, "isatty"),
    (seccomp.IOCTL, (0, 0x5412), EPERM, "type into a terminal"),
    (seccomp.FCNTL, (0, 2), ALLOW, "close on exec"),
    (seccomp.FCNTL, (0, 4), ALLOW, "flags of its own descriptions"),
    (seccomp.FCNTL, (0, 8), EPERM, "F_SETOWN"),
    (seccomp.FCNTL, (0, 10), EPERM, "F_SETSIG"),
    (seccomp.FCNTL, (0, 15), EPERM, "F_SETOWN_EX"),
    (seccomp.FCNTL, (0, 1024), EPERM, "a lease"),
    (seccomp.FCNTL, (0, 1025), EPERM, "sight of leases"),
    (seccomp.FCNTL, (0, 1026), EPERM, "news of a directory"),
    (seccomp.FCNTL, (0, 1031), EPERM, "a larger pipe"),
    (seccomp.FCNTL, (0, 1033), EPERM, "a seal on its output"),
    (seccomp.FCNTL, (0, 1036), EPERM, "a write hint on an inode"),
    (seccomp.FCNTL, (0, 1038), EPERM, "a write hint on a description"),
    (seccomp.FCNTL, (0, 99999), EPERM, "a command made later"),
    (seccomp.PRLIMIT64, (0,), ALLOW, "its own limits"),
    (seccomp.PRLIMIT64, (PID,), ALLOW, "its own limits by pid"),
    (seccomp.PRLIMIT64, (1,), EPERM, "another's limits"),
    (seccomp.SOCKETPAIR, (1, 1 | 0x80000), ALLOW, "a stream pair, as asyncio makes it"),
    (seccomp.SOCKETPAIR, (1, 2), EPERM, "a datagram pair, which could address others"),
    (seccomp.SOCKETPAIR, (2, 1), EPERM, "a pair of another family"),
    (seccomp.KILL, (PID, 18), EPERM, "SIGCONT to itself, which would undo a stop"),
    (seccomp.FCNTL, (0, 6), DONE, "a lock, as SQLite sets it on a file of its own"),
    (seccomp.FCNTL, (0, 7), DONE, "a lock, waited for"),
    (seccomp.FCNTL, (0, 5), EPERM, "sight of a lock of another"),
    (seccomp.FCNTL, (0, 36), EPERM, "sight of an open file's lock"),
    (seccomp.FCNTL, (0, 37), EPERM, "a lock of an open file"),
    (seccomp.FCNTL, (0, 38), EPERM, "a lock of an open file, waited for"),
    (seccomp.GETSOCKOPT, (3, 1, 3), ALLOW, "the type of a socket"),
    (seccomp.GETSOCKOPT, (3, 1, 77), EPERM, "a descriptor of the process at the other end"),
    (seccomp.GETSOCKOPT, (3, 1, 57), EPERM, "the number of a socket among all"),
    (seccomp.FUTEX, (0, 128), ALLOW, "a wait within the process"),
    (seccomp.FUTEX, (0, 128 | 256 | 9), ALLOW, "a timed wait within the process"),
    (seccomp.FUTEX, (0, 0), EAGAIN, "a wait that is shared"),
    (seccomp.FUTEX, (0, 256 | 9), EAGAIN, "a timed wait that is shared"),
    (seccomp.FUTEX, (0, 1), DONE, "a wake that is shared"),
    (seccomp.FUTEX, (0, 10), DONE, "a wake by bits that is shared"),
    (seccomp.FUTEX, (0, 4), EPERM, "a requeue that is shared"),
    (seccomp.FUTEX, (0, 6), EPERM, "an inheriting lock that is shared"),
    (seccomp.MMAP, (0, 4096, 3, 0x22), ALLOW, "memory"),
    (seccomp.MMAP, (0, 4096, 3, 0x40022), ENOMEM, "huge pages of the machine's pool"),
    (seccomp.MADVISE, (0, 4096, 4), ALLOW, "memory given back"),
    (seccomp.MADVISE, (0, 4096, 12), EINVAL, "pages merged with those of others"),
    (seccomp.MADVISE, (0, 4096, 21), EINVAL, "pages put out"),
    (seccomp.GETPRIORITY, (0, 0), ALLOW, "its own priority"),
    (seccomp.GETPRIORITY, (0, 1), EPERM, "the priority of another"),
    (seccomp.GETPRIORITY, (2, 0), EPERM, "the priority of a user's processes"),
    (seccomp.SENDTO, (3, 0, 0, 0, 0), ALLOW, "send on a connected pair"),
    (seccomp.SENDTO, (3, 0, 0, 0x4040, 0), ALLOW, "send without waiting or signal"),
    (seccomp.SENDTO, (3, 0, 0, 1, 0), EPERM, "out-of-band data"),
    (seccomp.SENDTO, (3, 0, 0, 0x4000000, 0), EPERM, "send without a copy"),
    (seccomp.SENDTO, (3, 0, 0, 0, 4096), EPERM, "send to an address"),
    (seccomp.SENDTO, (3, 0, 0, 0, 1 << 40), EPERM, "send to an address, high half"),
]


@pytest.mark.parametrize(
    ("number", "arguments", "expected", "what"), CHECKED, ids=[row[3] for row in CHECKED]
)
def test_calls_that_depend_on_their_arguments(
    number: int, arguments: tuple[int, ...], expected: int, what: str
) -> None:
    assert verdict(number, arguments) == expected, what


def test_without_threads_clone_is_refused() -> None:
    gate = seccomp.thread_filter()
    assert verdict(seccomp.CLONE, (0x3D0F00,), code=gate) == ASK
    assert verdict(seccomp.CLONE, (0x1200011,), code=gate) == ALLOW  # the worker's own fork
    assert verdict(seccomp.CLONE3, code=gate) == verdict(seccomp.CLONE, code=gate, arch=I386) == ALLOW


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0x22, ALLOW),  # private, anonymous
        (0x02, ALLOW),
        (0x01, ALLOW),  # a file, shared
        (0x20022, ALLOW),  # the stack of a thread
        (0x21, EPERM),
        (0x23, EPERM),  # shared and validated
        (0x122, EPERM),  # grows down
    ],
)
def test_memory_that_escapes_the_limit_cannot_be_mapped(flags: int, expected: int) -> None:
    assert verdict(seccomp.MMAP, (0, 1 << 20, 3, flags)) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 3, 0, 1 << 40), ALLOW),  # reads it
        ((0, 3, 1 << 40, 0), DONE),
        ((0, 3, 1, 0), DONE),
        ((PID, 3, 1, 0), DONE),
        ((0, 2, 1, 0), ALLOW),
        ((0, 0, 1, 0), DONE),  # processor time, in name only
        ((0, 0, 0, 1), ALLOW),
        ((1, 3, 1, 0), EPERM),
    ],
)
def test_stack_is_granted_in_name(arguments: tuple[int, ...], expected: int) -> None:
    assert verdict(seccomp.PRLIMIT64, arguments) == expected
