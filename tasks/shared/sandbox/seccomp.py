"""The system calls that a program may make: a seccomp filter, assembled by hand into classic BPF.

It is a list of allowed calls. Any other call gets EPERM, or ENOSYS if it is newer than the list, so that libraries fall
back. A foreign architecture kills the process. Refused are among others: socket, fork, execve, ptrace, kill of other
processes, mount, unshare, io_uring, memfd_create, chmod, chown, flock, timer_create, setsockopt, statfs, sysinfo.
`clone` is allowed for threads only. Calls that take a process may take the own one only, so no program sees another.
Some calls report success without any effect, if an honest program cannot see the difference (`_PRETENDED`).
"""

from __future__ import annotations

import errno
import struct

_ALLOWED_BY_PURPOSE = {
    "files": """
        read=0 write=1 readv=19 writev=20 pread64=17 pwrite64=18 preadv=295 pwritev=296 close=3
        close_range=436 fstat=5 newfstatat=262 stat=4 lstat=6 statx=332 lseek=8 access=21
        faccessat=269 faccessat2=439 dup=32 dup2=33 dup3=292 ftruncate=77 truncate=76
        fallocate=285 getdents64=217 getcwd=79
        chdir=80 fchdir=81 rename=82 renameat=264 renameat2=316 mkdir=83 mkdirat=258 rmdir=84
        unlink=87 unlinkat=263 link=86 linkat=265 symlink=88 symlinkat=266 readlink=89
        readlinkat=267 umask=95 open=2 openat=257 creat=85 copy_file_range=326 sendfile=40
    """,
    "memory": """
        munmap=11 mprotect=10 mremap=25 msync=26 brk=12
    """,
    "signals to itself": """
        rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 sigaltstack=131 rt_sigpending=127
        rt_sigtimedwait=128 rt_sigsuspend=130 pause=34 restart_syscall=219
    """,
    "waiting, pipes, timers": """
        pipe=22 pipe2=293 select=23 pselect6=270 poll=7 ppoll=271 epoll_create=213 epoll_create1=291
        epoll_ctl=233 epoll_wait=232 epoll_pwait=281 epoll_pwait2=441 eventfd=284 eventfd2=290
        nanosleep=35 gettimeofday=96 time=201 times=100 alarm=37 setitimer=38 getitimer=36 timerfd_create=283
        timerfd_settime=286 timerfd_gettime=287
    """,
    "threads": """
        set_robust_list=273 set_tid_address=218 rseq=334 exit=60 exit_group=231 arch_prctl=158
        sched_yield=24 sched_get_priority_max=146 sched_get_priority_min=147 getcpu=309
        wait4=61 waitid=247
    """,
    "looking at itself": """
        getpid=39 gettid=186 getppid=110 getpgrp=111 getuid=102 geteuid=107 getgid=104 getegid=108
        getresuid=118 getresgid=120 getgroups=115 getrlimit=97 getrusage=98 uname=63
        getrandom=318
    """,
    "one end of a socketpair": """
        shutdown=48 getsockname=51 getpeername=52 recvfrom=45 recvmsg=47
    """,
}


def _numbers(text: str) -> dict[str, int]:
    pairs = (item.partition("=") for item in text.split())
    return {name: int(number) for name, _, number in pairs}


ALLOWED = _numbers(" ".join(_ALLOWED_BY_PURPOSE.values()))
"""Allowed with any arguments: name -> x86-64 number."""

CLONE, CLONE3, KILL, TKILL, TGKILL, PRCTL, IOCTL = 56, 435, 62, 200, 234, 157, 16
SOCKETPAIR, PRLIMIT64, FCNTL, SENDTO, GETSOCKOPT = 53, 302, 72, 44, 55
FUTEX, MMAP, MADVISE, GETPRIORITY = 202, 9, 28, 140
CLOCKS = _numbers("clock_gettime=228 clock_getres=229 clock_nanosleep=230")
OF_ITSELF = _numbers(
    "getpgid=121 getsid=124 sched_getaffinity=204 sched_getparam=143 sched_getscheduler=145 get_robust_list=274"
)
"""Calls that read properties of the process that they name."""
_PRETENDED = _numbers("fsync=74 fdatasync=75 fadvise64=221")
"""These report success without any effect. A program's files are in memory, and effects on the disk or the page cache
of the host could signal to others."""
LAST_KNOWN = 424
"""Calls above this number are newer than the list. Libraries try them and expect ENOSYS."""

_ARCH_X86_64 = 0xC000003E
_KILL_PROCESS, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_DONE = _ERRNO
"""Error number 0: the call reports success without any effect."""
_EPERM, _ENOSYS, _EAGAIN = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS, _ERRNO | errno.EAGAIN
_EINVAL, _ENOMEM = _ERRNO | errno.EINVAL, _ERRNO | errno.ENOMEM
_ASK = 0x7FC00000
_LOAD, _JEQ, _JGE, _JSET, _JA, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x05, 0x54, 0x06
_XOR, _SHIFT_RIGHT = 0xA4, 0x74
_CLONE_THREAD, _CLONE_NEW = 0x00010000, 0x7E020080
_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA = 15, 16, 0x53564D41
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX."""
_FCNTLS = (0, 1, 2, 3, 4, 1030, 1032, 1034)
"""F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_DUPFD_CLOEXEC F_GETPIPE_SZ F_GET_SEALS. Not listed are settings that all
who open a file share (leases, write hints, seals, notification, sight of locks), signals to others, larger pipes."""
_LOCKS = (6, 7)
"""F_SETLK F_SETLKW (SQLite uses them) report success. A real lock would never conflict with its own process, and no
other process can open a program's files. So no file keeps a lock by which programs could signal."""
_SOCKET_OPTIONS = (3, 4, 7, 8, 30, 38, 39)
"""SO_TYPE SO_ERROR SO_SNDBUF SO_RCVBUF SO_ACCEPTCONN SO_PROTOCOL SO_DOMAIN; not SO_COOKIE, which counts all sockets."""
_ADVICE = (0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19)
"""Advice on the program's own mappings; none that merges equal pages of all programs or acts on the page cache."""
_MAP_HUGETLB, _MAP_GROWSDOWN, _MAP_SHARED_ANONYMOUS = 0x40000, 0x100, 0x21
_RLIMIT_CPU, _RLIMIT_STACK = 0, 3
_FUTEX_PRIVATE, _FUTEX_COMMAND = 0x80, 0x7F
_FUTEX_WAITS, _FUTEX_WAKES = (0, 9), (1, 10)
_AF_UNIX, _SOCK_STREAM = 1, 1
_ALL = 0xFFFFFFFF
_SEND_FLAGS = 0x40 | 0x4000  # MSG_DONTWAIT, MSG_NOSIGNAL
_NEVER_TO_ITSELF = (9, 18, 19)
"""SIGKILL, SIGCONT and SIGSTOP: only the sandbox may send them, since it draws conclusions from them. For the same
reason timers that send a chosen signal are refused."""

Instruction = tuple[int, int, int, int]


def _ins(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> Instruction:
    return (code, jump_true, jump_false, k)


def _argument(index: int, high: bool = False) -> Instruction:
    return _ins(_LOAD, 16 + 8 * index + (4 if high else 0))


def _require(index: int, mask: int, value: int, high: bool = False) -> list[Instruction]:
    """Refuse the call unless the argument, masked, has the value."""
    return [_argument(index, high), _ins(_AND, mask), _ins(_JEQ, value, 1, 0), _ins(_RETURN, _EPERM)]


def _one_of(index: int, values: tuple[int, ...], found: int, otherwise: int) -> list[Instruction]:
    """Return `found` if the argument is one of the values, else `otherwise`."""
    jumps = [_ins(_JEQ, value, len(values) - place, 0) for place, value in enumerate(values)]
    return [_argument(index), *jumps, _ins(_RETURN, otherwise), _ins(_RETURN, found)]


def _cases(index: int, cases: dict[int, int], otherwise: int) -> list[Instruction]:
    """Return what `cases` gives for the argument, else `otherwise`."""
    block = [_argument(index)]
    for value, verdict in cases.items():
        block += [_ins(_JEQ, value, 0, 1), _ins(_RETURN, verdict)]
    return [*block, _ins(_RETURN, otherwise)]


def _futex() -> list[Instruction]:
    """Allow futexes within the process. A shared futex belongs to a page of a file, which may be a library's.

    On a shared futex a wait returns at once, as if the value had changed (`pthread_join` then checks again), and a wake
    finds no waiter.
    """
    cases = dict.fromkeys(_FUTEX_WAITS, _EAGAIN) | dict.fromkeys(_FUTEX_WAKES, _DONE)
    shared = _cases(1, cases, _EPERM)
    private = [_argument(1), _ins(_JSET, _FUTEX_PRIVATE, 0, 1), _ins(_RETURN, _ALLOW)]
    return [*private, shared[0], _ins(_AND, _FUTEX_COMMAND), *shared[1:]]


def _clock(pid: int) -> list[Instruction]:
    """Allow clocks of the system, of the program's threads (the kernel shows no others) and of its own process.

    The clock of process p is the number ~p << 3 and its kind; bit 2 says that p is a thread.
    """
    return [
        _argument(0),
        _ins(_JGE, 1 << 31, 0, 5),
        _ins(_JSET, 4, 4, 0),
        _ins(_XOR, _ALL),
        _ins(_SHIFT_RIGHT, 3),
        _ins(_JEQ, 0, 1, 0),
        _ins(_JEQ, pid, 0, 1),
        _ins(_RETURN, _ALLOW),
        _ins(_RETURN, _EPERM),
    ]


def _signal(argument: int, pid: int) -> list[Instruction]:
    """Allow a signal to the program's own process only: argument 0 is the process, `argument` the signal."""
    return [*_require(0, _ALL, pid), *_one_of(argument, _NEVER_TO_ITSELF, _EPERM, _ALLOW)]


def _mapping() -> list[Instruction]:
    """Allow mappings that RLIMIT_DATA counts, and those of files, which have limits of their own.

    The limit counts neither shared anonymous memory (MAP_SHARED | MAP_ANONYMOUS) nor stacks (MAP_GROWSDOWN). Huge pages
    are refused as if the machine had none.
    """
    return [
        _argument(3),
        _ins(_JSET, _MAP_HUGETLB, 0, 1),
        _ins(_RETURN, _ENOMEM),
        _ins(_JSET, _MAP_GROWSDOWN, 0, 1),
        _ins(_RETURN, _EPERM),
        _ins(_AND, _MAP_SHARED_ANONYMOUS),
        _ins(_JEQ, _MAP_SHARED_ANONYMOUS, 0, 1),
        _ins(_RETURN, _EPERM),
        _ins(_RETURN, _ALLOW),
    ]


def _limits(pid: int) -> list[Instruction]:
    """Allow limits of the own process. Those of the stack and of processor time are granted in name only.

    The stack is the largest already. The broker limits processor time: SIGKILL by the kernel, at a limit that the
    program sets itself, would look like an outage.
    """
    return [
        _argument(0),
        _ins(_JEQ, 0, 2, 0),
        _ins(_JEQ, pid, 1, 0),
        _ins(_RETURN, _EPERM),
        _argument(1),
        _ins(_JEQ, _RLIMIT_STACK, 1, 0),
        _ins(_JEQ, _RLIMIT_CPU, 0, 5),
        _argument(2),
        _ins(_JEQ, 0, 0, 2),
        _argument(2, high=True),
        _ins(_JEQ, 0, 1, 0),
        _ins(_RETURN, _DONE),
        _ins(_RETURN, _ALLOW),
    ]


def thread_filter() -> bytes:
    """Build a filter that asks its listener about each new thread, and leaves all other calls to other filters."""
    program = [
        _ins(_LOAD, 4),
        _ins(_JEQ, _ARCH_X86_64, 0, 5),
        _ins(_LOAD, 0),
        _ins(_JEQ, CLONE, 0, 3),
        _argument(0),
        _ins(_AND, _CLONE_THREAD),
        _ins(_JEQ, _CLONE_THREAD, 1, 0),
        _ins(_RETURN, _ALLOW),
        _ins(_RETURN, _ASK),
    ]
    return _assemble(program)


def _assemble(program: list[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _checked(pid: int) -> dict[int, list[Instruction]]:
    """Return the checks of calls that depend on their arguments, by number."""
    allow = _ins(_RETURN, _ALLOW)
    return {
        CLONE: [*_require(0, _CLONE_THREAD | _CLONE_NEW, _CLONE_THREAD), allow],  # threads only
        CLONE3: [_ins(_RETURN, _ENOSYS)],
        KILL: _signal(1, pid),
        TGKILL: _signal(2, pid),
        PRCTL: _one_of(0, (_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA), _ALLOW, _EPERM),
        IOCTL: _one_of(1, _IOCTLS, _ALLOW, _EPERM),
        FCNTL: _cases(1, dict.fromkeys(_FCNTLS, _ALLOW) | dict.fromkeys(_LOCKS, _DONE), _EPERM),
        PRLIMIT64: _limits(pid),
        SOCKETPAIR: [*_require(0, _ALL, _AF_UNIX), *_require(1, 0xF, _SOCK_STREAM), allow],
        SENDTO: [
            *_require(3, _ALL & ~_SEND_FLAGS, 0),
            *_require(4, _ALL, 0),
            *_require(4, _ALL, 0, high=True),
            allow,
        ],
        GETSOCKOPT: _one_of(2, _SOCKET_OPTIONS, _ALLOW, _EPERM),
        FUTEX: _futex(),
        MMAP: _mapping(),
        MADVISE: _one_of(2, _ADVICE, _ALLOW, _EINVAL),
        GETPRIORITY: [*_require(0, _ALL, 0), *_one_of(1, (0, pid), _ALLOW, _EPERM)],
        **{number: [_ins(_RETURN, _DONE)] for number in _PRETENDED.values()},
        **{number: _clock(pid) for number in CLOCKS.values()},
        **{number: _one_of(0, (0, pid), _ALLOW, _EPERM) for number in OF_ITSELF.values()},
    }


def _tree(blocks: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Build a binary search over sorted (first number, block) pairs: a few comparisons a call instead of 150."""
    if len(blocks) == 1:
        return blocks[0][1]
    middle = len(blocks) // 2
    low, high = _tree(blocks[:middle]), _tree(blocks[middle:])
    if len(low) <= 255:
        return [_ins(_JGE, blocks[middle][0], len(low), 0), *low, *high]
    return [_ins(_JGE, blocks[middle][0], 0, 1), _ins(_JA, len(low)), *low, *high]


def build_filter(pid: int) -> bytes:
    """Build the filter for the process `pid` (as it sees itself), for `kernel.install_filter`."""
    allow, refuse = [_ins(_RETURN, _ALLOW)], [_ins(_RETURN, _EPERM)]
    table = dict.fromkeys(ALLOWED.values(), allow) | _checked(pid)
    blocks: list[tuple[int, list[Instruction]]] = []
    for number in range(max(LAST_KNOWN, *table) + 1):
        block = table.get(number, refuse if number <= LAST_KNOWN else [_ins(_RETURN, _ENOSYS)])
        if not blocks or blocks[-1][1] != block:
            blocks.append((number, block))
    blocks.append((max(LAST_KNOWN, *table) + 1, [_ins(_RETURN, _ENOSYS)]))
    blocks.append((0x40000000, [_ins(_RETURN, _KILL_PROCESS)]))  # the x32 calls, under other numbers
    program = [
        _ins(_LOAD, 4),
        _ins(_JEQ, _ARCH_X86_64, 1, 0),
        _ins(_RETURN, _KILL_PROCESS),
        _ins(_LOAD, 0),
        *_tree(blocks),
    ]
    return _assemble(program)
