"""Channels by which one program could reach another: what the sender does and what the receiver reads.

`look` prints something else if `talk` reached it. Each is tried while the sender runs and after its end.
"""

# ruff: noqa: E501 - a hostile program reads best on one line

from __future__ import annotations

from dataclasses import dataclass

_MAP = (
    "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.mmap.restype = ctypes.c_void_p\n"
    "fd = os.open(os.__file__, 0)\npage = libc.mmap(None, ctypes.c_size_t(4096), 1, {sharing}, fd, ctypes.c_long(0))\n"
)
_OTHERS = "import os\nothers = [pid for pid in range(1, 3000) if pid != os.getpid()]\nseen = []\nfor pid in others:\n    try:\n        {look}\n        seen.append(pid)\n    except OSError:\n        pass\nprint(seen)"
_NEIGHBOURS = (
    "import os\nhere, seen = os.getcwd(), []\nstart = here.split('/scratch')[0] + '/scratch'\n"
    "places = [start + join + str(n) for n in range(40) for join in ('/', '')]\n"
    "for place in places:\n    for path in (place, place + '/told', place + '/' + os.path.basename(here)):\n"
    "        if path == here or here.startswith(path + '/'): continue\n        try:\n            {look}\n        except OSError:\n            pass\nprint(sorted(set(seen)))"
)


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel."""

    name: str
    talk: str
    look: str
    silence: str
    """The output if nothing is received."""
    stacks: tuple[str, ...] = ("root", "user", "landlock")
    """Where it is closed."""


CHANNELS = [
    Channel("flags of standard input", "import fcntl, os\nfcntl.fcntl(0, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)",
        "import fcntl, os\nprint(fcntl.fcntl(0, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK))", "0"),
    Channel("lock on the null device", "import fcntl, os\nkept = os.open('/dev/null', os.O_RDWR)\nfcntl.lockf(kept, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 12345)",
        "import fcntl, os\nfcntl.lockf(os.open('/dev/null', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 12345)\nprint('free')", "free"),
    Channel("futex in a shared map of a library", _MAP.format(sharing=1) + "libc.syscall(202, ctypes.c_void_p(page), 0, ctypes.c_uint.from_address(page).value, (ctypes.c_long * 2)(1, 0), None, 0)",
        _MAP.format(sharing=1) + "print(libc.syscall(202, ctypes.c_void_p(page), 1, 99, None, None, 0))", "0"),
    Channel("futex in a private map of a library", _MAP.format(sharing=2) + "libc.syscall(202, ctypes.c_void_p(page), 0, ctypes.c_uint.from_address(page).value, (ctypes.c_long * 2)(1, 0), None, 0)",
        _MAP.format(sharing=2) + "print(libc.syscall(202, ctypes.c_void_p(page), 1, 99, None, None, 0))", "0"),
    Channel("write hint on a library", "import ctypes, fcntl, os, struct\nkept = os.open(os.__file__, 0)\nfcntl.fcntl(kept, 1036, struct.pack('Q', 5))",
        "import fcntl, os, struct\ntry: print(fcntl.fcntl(os.open(os.__file__, 0), 1035, bytes(8)))\nexcept OSError: print('refused')", "refused"),
    Channel("processor time of others", "n = 0\nfor n in range(10**6): pass", _OTHERS.format(look="import time; time.clock_gettime((~pid << 3) | 2)"), "[]"),
    Channel("sessions of others", "", _OTHERS.format(look="os.getsid(pid)"), "[]"),
    Channel("groups of others", "", _OTHERS.format(look="os.getpgid(pid)"), "[]"),
    Channel("processors of others", "", _OTHERS.format(look="os.sched_getaffinity(pid)"), "[]"),
    Channel("priorities of others", "", _OTHERS.format(look="os.getpriority(os.PRIO_PROCESS, pid)"), "[]"),
    Channel("schedulers of others", "", _OTHERS.format(look="os.sched_getscheduler(pid)"), "[]"),
    Channel("limits of others", "", _OTHERS.format(look="import resource; resource.prlimit(pid, resource.RLIMIT_NOFILE)"), "[]"),
    Channel("links of a neighbour's directory", "import os\nfor n in range(9): os.mkdir(f'd{n}')\nopen('told', 'w')",
        _NEIGHBOURS.format(look="seen.append(os.stat(path).st_nlink) if os.stat(path).st_nlink > 5 or path.endswith('told') else None"), "[]"),
    Channel("file in a neighbour's place", "import os\nfor path in ('../told', os.path.dirname(os.getcwd()) + '/told'):\n    try: open(path, 'w')\n    except OSError: pass",
        _NEIGHBOURS.format(look="os.stat(path).st_size == 0 and path.endswith('told') and seen.append(path)"), "[]"),
    Channel("room in a neighbour's directory", "with open('big', 'wb') as f: f.write(bytes(8 << 20))",
        _NEIGHBOURS.format(look="seen.append(os.statvfs(path).f_bfree)"), "[]"),
    Channel("figures of the machine", "", "import ctypes\nprint(ctypes.CDLL(None).sysinfo(ctypes.create_string_buffer(256)))", "-1"),
    Channel("signals that are queued", "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nfor _ in range(200000): os.kill(os.getpid(), 40)",
        "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [40])\nfor _ in range(9): os.kill(os.getpid(), 40)\nn = 0\nwhile signal.sigtimedwait([40], 0): n += 1\nprint(n)", "1"),
    Channel("count of all sockets", "", "import socket\na, b = socket.socketpair()\ntry: print(a.getsockopt(1, 57, 8))\nexcept OSError: print('refused')", "refused"),
    Channel("number of the next inode", "import os\nfor n in range(50):\n    open('f', 'w').close()\n    os.unlink('f')",
        "import os\nopen('f', 'w').close()\nprint(os.stat('f').st_ino - os.stat('.').st_ino)", "1", ("root", "user")),
    Channel("number of an unnamed inode", "import os\nfor n in range(50): os.close(os.open('.', os.O_TMPFILE | os.O_WRONLY))",
        "import os\nopen('f', 'w').close()\nprint(os.stat('f').st_ino - os.stat('.').st_ino)", "1", ("root", "user")),
    Channel("dates of the own directory", "import os\nos.mkdir('d')\nos.rmdir('d')\nos.listdir('.')",
        "import os\ns = os.stat('.')\nprint(s.st_mtime_ns == s.st_ctime_ns, os.listdir('.'))", "True []", ("root", "user")),
]  # fmt: skip
"""Only what stands still while it is looked at. What goes by time or by counters that nothing here can close is measured
by `python -m benchmarks.sandbox_channels`."""

SENDERS = [
    "\n".join(f"try: exec({channel.talk!r}, {{}})\nexcept Exception: pass" for channel in group)
    for group in (
        [c for c in CHANNELS if "futex" not in c.name],
        *([c] for c in CHANNELS if "futex" in c.name),
    )
]
"""All that can be said, by programs that live on for a while; one that waits on a futex says nothing else."""
