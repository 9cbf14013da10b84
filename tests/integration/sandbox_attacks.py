"""Hostile programs, one property each.

A successful attack prints BREACH. The test fills `{name}` with objects outside the sandbox: a secret file, a
listening port, a process to kill. `also` is a substring that must be printed where silence would prove nothing.
"""

# ruff: noqa: E501 - a hostile program reads best on one line

from __future__ import annotations

from dataclasses import dataclass

from tasks.shared.sandbox.records import Status

ENDED = (Status.OK, Status.ERROR, Status.FORBIDDEN, Status.OUTPUT_CUT)
STOPPED = (Status.TIMEOUT, Status.OUT_OF_MEMORY)

_CTYPES = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


@dataclass(frozen=True, slots=True)
class Attack:
    """A hostile program and its required result."""

    name: str
    category: str
    code: str
    statuses: tuple[Status, ...] = ENDED
    also: str = ""
    control: bool = False
    """Gets through where nothing isolates, and harms nothing there: run so too, to show that it can."""


def _tries(body: str) -> str:
    """A program that prints BREACH if `body` (which ends in an expression statement or not) does not raise."""
    lines = "\n".join("    " + line for line in body.splitlines())
    return f"try:\n{lines}\n    print('BREACH')\nexcept (OSError, ImportError, RuntimeError) as e:\n    print('held', e)\n"


FILES = [
    Attack("read secret file", "files", _tries("print(open('{secret}').read())"), also="held", control=True),
    Attack("read passwd", "files", _tries("open('/etc/passwd').read()"), also="held", control=True),
    Attack("list root", "files", _tries("import os\nos.listdir('/')"), also="held", control=True),
    Attack("list installed packages", "files", _tries(
        "import numpy, os\nos.listdir(os.path.dirname(os.path.dirname(numpy.__file__)))"), also="held", control=True),
    Attack("list home", "files", _tries("import os\nos.listdir('/root')"), also="held"),
    Attack("list proc", "files", _tries("import os\nos.listdir('/proc')"), also="held", control=True),
    Attack("read own environ by proc", "files", _tries("open('/proc/self/environ').read()"), also="held", control=True),
    Attack("read broker memory", "files", _tries("open('/proc/{server_pid}/mem', 'rb').read(1)"), also="held"),
    Attack("write into temp", "files", _tries("open('/tmp/sandbox-breach', 'w').write('x')"), also="held"),
    Attack("write into library", "files", _tries("import os\nopen(os.__file__, 'a').write('#')"), also="held"),
    Attack("symlink to secret", "files", _tries("import os\nos.symlink('{secret}', 'link')\nopen('link').read()"), also="held", control=True),
    Attack("hard link to secret", "files", _tries("import os\nos.link('{secret}', 'hard')\nopen('hard').read()"), also="held"),
    Attack("dot dot", "files", _tries("open('../' * 40 + 'etc/passwd').read()"), also="held", control=True),
    Attack("chroot", "files", _tries("import os\nos.chroot('.')"), also="held"),
    Attack("mknod", "files", _tries("import os, stat\nos.mknod('disk', stat.S_IFBLK | 0o600, os.makedev(254, 0))"), also="held"),
    Attack("chmod of library", "files", _tries("import os\nos.chmod(os.__file__, 0o666)"), also="held"),
    Attack("truncate secret", "files", _tries("import os\nos.truncate('{secret}', 0)"), also="held"),
    Attack("rename secret", "files", _tries("import os\nos.rename('{secret}', '{secret}.moved')"), also="held"),
    Attack("mount tmpfs", "files", _CTYPES + "print('BREACH' if libc.mount(b'none', b'/', b'tmpfs', 0, None) == 0 else 'held')", also="held"),
    Attack("open by handle", "files", _CTYPES + "print('BREACH' if libc.syscall(304, -100, None, 0) >= 0 or ctypes.get_errno() != 1 else 'held')", also="held"),
    Attack("locks a library", "files", _tries("import fcntl, os\nfcntl.flock(os.open(os.__file__, 0), 1 | 4)"), also="held", control=True),
    Attack("locks a library as an open file", "files", _tries(
        "import fcntl, os, struct\nfcntl.fcntl(os.open(os.__file__, 0), 37, struct.pack('hhqqi4x', 0, 0, 0, 0, 0))"), also="held", control=True),
    Attack("sees who locks a library", "files", _tries(
        "import fcntl, os, struct\nfcntl.fcntl(os.open(os.__file__, 0), 5, struct.pack('hhqqi4x', 1, 0, 0, 0, 0))"), also="held", control=True),
    Attack("openat2 past the rules", "files", _CTYPES + (
        "how = (ctypes.c_uint64 * 3)(0, 0, 0)\nfd = libc.syscall(437, -100, b'{secret}', how, 24)\n"
        "print('BREACH' if fd >= 0 else 'held')"), also="held", control=True),
]  # fmt: skip

NETWORK = [
    Attack("tcp loopback", "network", _tries("import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"), also="held", control=True),
    Attack("udp loopback", "network", _tries("import socket\nsocket.socket(2, 2).sendto(b'x', ('127.0.0.1', {port}))"), also="held", control=True),
    Attack("udp outside", "network", _tries("import socket\nsocket.socket(2, 2).sendto(b'x', ('8.8.8.8', 53))"), also="held"),
    Attack("ipv6", "network", _tries("import socket\nsocket.socket(10, 1)"), also="held", control=True),
    Attack("abstract socket", "network", _tries("import socket\nsocket.socket(1, 1).connect('\\0{abstract}')"), also="held", control=True),
    Attack("server socket path", "network", _tries("import socket\nsocket.socket(1, 1).connect('{server_socket}')"), also="held"),
    Attack("datagram pair to abstract", "network", _tries("import socket\na, b = socket.socketpair(1, 2)\na.sendto(b'x', '\\0{abstract}')"), also="held"),
    Attack("listen", "network", _tries("import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()"), also="held", control=True),
    Attack("netlink", "network", _tries("import socket\nsocket.socket(16, 3, 0)"), also="held", control=True),
    Attack("raw packet", "network", _tries("import socket\nsocket.socket(17, 3, 0x300)"), also="held"),
    Attack("urlopen", "network", _tries("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}', timeout=1)"), also="held"),
    Attack("io_uring", "network", _CTYPES + "p = (ctypes.c_char * 120)()\nprint('BREACH' if libc.syscall(425, 4, p) >= 0 else 'held')", also="held"),
    Attack("out-of-band data", "network", _tries("import socket\na, b = socket.socketpair()\na.send(b'x', socket.MSG_OOB)"), also="held", control=True),
    Attack("options of a socket", "network", _tries("import socket\na, b = socket.socketpair()\na.setsockopt(1, 2, 1)"), also="held", control=True),
    Attack("vsock", "network", _tries("import socket\nsocket.socket(40, 1)"), also="held"),
]  # fmt: skip

PROCESSES = [
    Attack("fork", "processes", _tries("import os\nif os.fork() == 0:\n    os._exit(0)"), also="held", control=True),
    Attack("vfork by number", "processes", _CTYPES + "print('BREACH' if libc.syscall(57) >= 0 else 'held')", also="held"),
    Attack("clone3 by number", "processes", _CTYPES + (
        "a = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)\nr = libc.syscall(435, a, 88)\n"
        "if r == 0:\n    os._exit(0)\nprint('BREACH' if r > 0 else 'held')"), also="held", control=True),
    Attack("subprocess", "processes", _tries("import subprocess\nsubprocess.run(['/bin/true'])"), also="held", control=True),
    Attack("exec", "processes", _tries("import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(\"BREACH\")'])"), also="held"),
    Attack("exec of own file", "processes", _tries(
        "import os\nopen('x.sh', 'w').write('#!/bin/sh\\necho BREACH')\nos.execv('./x.sh', ['x'])"), also="held"),
    Attack("daemon by double fork", "processes", _tries("import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()"), also="held"),
    Attack("multiprocessing", "processes", _tries("import multiprocessing as m\np = m.Process(target=print)\np.start()\np.join()"), also="held"),
    Attack("timer that kills itself", "processes", _CTYPES + (
        "event, timer = (ctypes.c_int * 16)(0, 0, 9, 0), ctypes.c_void_p()\n"
        "made = libc.syscall(222, 1, event, ctypes.byref(timer))\nprint('BREACH' if made == 0 else 'held')"), also="held", control=True),
    Attack("undoes a stop", "processes", _tries("import os\nos.kill(os.getpid(), 18)"), also="held", control=True),
    Attack("descriptor of the worker by its channel", "processes", _tries(
        "import socket\nsocket.socket(1, 5, 0, fileno=3).getsockopt(1, 77)"), also="held"),
    Attack("signal all", "processes", _tries("import os\nos.kill(-1, 9)"), also="held"),
    Attack("signal parent", "processes", _tries("import os\nos.kill(os.getppid(), 9)"), also="held"),
    Attack("signal process 1", "processes", _tries("import os\nos.kill(1, 9)"), also="held"),
    Attack("signal victim", "processes", _tries("import os\nos.kill({victim}, 9)"), also="held"),
    Attack("signal group", "processes", _tries("import os\nos.killpg(0, 15)"), also="held"),
    Attack("probe pids", "processes", (
        "import os\nseen = []\nfor pid in range(1, 3000):\n    if pid == os.getpid(): continue\n    try:\n"
        "        os.kill(pid, 0)\n        seen.append(pid)\n    except OSError:\n        pass\n"
        "print('BREACH' if seen else 'held', seen)"), also="held", control=True),
    Attack("ptrace victim", "processes", _CTYPES + "print('BREACH' if libc.ptrace(16, {victim}, 0, 0) == 0 else 'held')", also="held"),
    Attack("ptrace parent", "processes", _CTYPES + "print('BREACH' if libc.ptrace(16, os.getppid(), 0, 0) == 0 else 'held')", also="held"),
    Attack("read memory of parent", "processes", _CTYPES + (
        "b = ctypes.create_string_buffer(8)\nv = (ctypes.c_void_p * 2)(ctypes.addressof(b), 8)\n"
        "r = libc.process_vm_readv(os.getppid(), v, 1, v, 1, 0)\nprint('BREACH' if r >= 0 else 'held')"), also="held"),
    Attack("pidfd of parent", "processes", _tries("import os\nos.pidfd_open(os.getppid())"), also="held"),
    Attack("signal by timer to another", "processes", _tries("import fcntl\nfcntl.fcntl(0, fcntl.F_SETOWN, 1)"), also="held"),
    Attack("setuid 0", "processes", _tries("import os\nos.setuid(0)\nos.setgid(0)"), also="held"),
    Attack("new user namespace", "processes", _CTYPES + "print('BREACH' if libc.unshare(0x10000000) == 0 else 'held')", also="held"),
    Attack("raise priority", "processes", _tries("import os\nos.setpriority(os.PRIO_PROCESS, 0, -10)"), also="held"),
    Attack("key of the kernel's ring", "processes", _CTYPES + "print('BREACH' if libc.syscall(250, 0, -3, 1) >= 0 else 'held')", also="held"),
    Attack("bpf and perf", "processes", _CTYPES + (
        "print('BREACH' if libc.syscall(321, 0, None, 0) >= 0 or ctypes.get_errno() != 1 else 'held')"), also="held"),
    Attack("thirty-two-bit calls", "processes", _CTYPES + (
        "import mmap\nm = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')\n"  # mov eax, 20 (getpid); int 0x80; ret
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
        "print('BREACH', f())"), statuses=(Status.FORBIDDEN, Status.ERROR)),
]  # fmt: skip

RESOURCES = [
    Attack("endless loop", "resources", "while True: pass", statuses=(Status.TIMEOUT,)),
    Attack("endless sleep", "resources", "import time\ntime.sleep(1000)\nprint('BREACH')", statuses=(Status.TIMEOUT,)),
    Attack("ignores every signal", "resources", (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "while True: pass"), statuses=(Status.TIMEOUT,)),
    Attack("stops itself", "resources", _tries("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"), also="held"),
    Attack("lowers its processor limit to be killed", "resources", (
        "import ctypes, resource\nresource.setrlimit(resource.RLIMIT_CPU, (0, 0))\n"
        "ctypes.CDLL(None).syscall(160, 0, (ctypes.c_long * 2)(0, 0))\nwhile True: pass"), statuses=(Status.TIMEOUT,)),
    Attack("memory at once", "resources", "x = bytearray(1 << 34)\nprint('BREACH')", statuses=(Status.OUT_OF_MEMORY,)),
    Attack("memory in steps", "resources", "x = []\nwhile True: x.append(bytearray(1 << 20))", statuses=STOPPED),
    Attack("memory by numpy", "resources", "import numpy\nx = numpy.ones(1 << 31)\nprint('BREACH')", statuses=(Status.OUT_OF_MEMORY,)),
    Attack("memory by integers", "resources", "x = 1 << (1 << 34)\nprint('BREACH')", statuses=(*STOPPED, Status.ERROR)),
    Attack("memory file", "resources", _tries("import os\nfd = os.memfd_create('x')\nos.ftruncate(fd, 1 << 30)"), also="held", control=True),
    *(Attack(f"raises its limit {name}", "resources", _tries(
        f"import resource\ntry:\n    resource.setrlimit(resource.{name}, (-1, -1))\nexcept ValueError as e:\n    raise OSError(e)"),
        also="held", control=True) for name in ("RLIMIT_AS", "RLIMIT_DATA")),
    Attack("memory of no file, shared", "resources", _tries("import mmap\nm = mmap.mmap(-1, 1 << 20)\nm[0] = 1"), also="held", control=True),
    Attack("memory that grows down", "resources", _tries("import mmap\nmmap.mmap(-1, 1 << 20, flags=0x122)"), also="held", control=True),
    Attack("stack beyond the limit", "resources", (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY,) * 2)\nsys.setrecursionlimit(10**9)\n"
        "from functools import lru_cache\n@lru_cache(None)\ndef f(n): return f(n + 1) + 1\nf(0)"), statuses=(*STOPPED, Status.ERROR)),
    Attack("memory of threads", "resources", (
        "import threading\nx = []\ndef grow():\n    while True: x.append(bytearray(1 << 20))\n"
        "threads = [threading.Thread(target=grow) for _ in range(4)]\n[t.start() for t in threads]\n[t.join() for t in threads]"),
        statuses=(*STOPPED, Status.OK, Status.ERROR)),
    Attack("thread bomb", "resources", (
        "import threading, time\nn = 0\ntry:\n    while n < 500:\n        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "        n += 1\nexcept RuntimeError:\n    pass\nprint('BREACH' if n >= 16 else 'held', n)"), also="held", control=True),
    Attack("thread bomb of small stacks", "resources", (
        "import threading, time\nthreading.stack_size(32768)\nn = 0\ntry:\n    while n < 500:\n"
        "        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n        n += 1\n"
        "except RuntimeError:\n    pass\nprint('BREACH' if n >= 16 else 'held', n)"), also="held", control=True),
    Attack("fork bomb", "resources", "import os\nwhile True:\n    os.fork()", statuses=(Status.FORBIDDEN,)),
    Attack("descriptor bomb", "resources", _tries("import os\nx = [os.dup(0) for _ in range(5000)]"), also="held"),
    Attack("large pipes", "resources", _tries("import fcntl, os\nfcntl.fcntl(os.pipe()[1], 1031, 1 << 20)"), also="held", control=True),
    Attack("fill disk with one file", "resources", _tries(
        "f = open('big', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20))\nf.close()"), also="held", control=True),
    Attack("fill disk with many files", "resources", _tries(
        "for n in range(64):\n    with open(f'part{n}', 'wb') as f: f.write(bytes(1 << 20))"), also="held", control=True),
    Attack("many inodes", "resources", _tries("for n in range(5000): open(f'i{n}', 'w').close()"), also="held", control=True),
    Attack("directory too deep", "resources", _tries(
        "import os\nfor n in range(5000):\n    os.mkdir('d')\n    os.chdir('d')"), also="held"),
    Attack("stack overflow", "resources", (
        "import sys\nsys.setrecursionlimit(10**9)\nf = lambda x: repr([x]) and f([x])\nf([])"), statuses=(*STOPPED, Status.ERROR)),
    Attack("slow regular expression", "resources", "import re\nre.match('(a+)+$', 'a' * 64 + 'b')\nprint('BREACH')", statuses=(Status.TIMEOUT,)),
    Attack("huge power", "resources", "x = 9 ** (9 ** 9)\nprint('BREACH')", statuses=STOPPED),
    Attack("compiler bomb", "resources", "exec('(' * 100000 + ')' * 100000)\nprint('BREACH')", statuses=(*STOPPED, Status.ERROR)),
    Attack("System V shared memory", "resources", _CTYPES + "print('BREACH' if libc.shmget(0, 1 << 28, 0o1600) >= 0 else 'held')", also="held", control=True),
]  # fmt: skip

OUTPUT = [
    Attack("endless output", "output", "while True: print('x' * 100000)", statuses=(Status.OUTPUT_CUT, Status.TIMEOUT)),
    Attack("endless output to stderr", "output", "import sys\nwhile True: sys.stderr.write('x' * 100000)", statuses=(Status.ERROR, Status.TIMEOUT)),
    Attack("sparse output", "output", "import os\nos.lseek(1, 15 << 20, 0)\nos.write(1, b'end')", statuses=(Status.OUTPUT_CUT,)),
    Attack("output beyond the limit of files", "output", _tries("import os\nos.ftruncate(1, 1 << 40)"), also="held"),
    Attack("bytes that are no text", "output", "import os\nos.write(1, bytes(range(256)))", statuses=(Status.OK,)),
    Attack("control characters and surrogates", "output", "print('\\x00\\x1b[2J\\u202e')\nprint('\\ud800')", statuses=(Status.ERROR,)),
    Attack("long traceback", "output", "raise ValueError('x' * 10**7)", statuses=(Status.ERROR,)),
    Attack("sealed output", "output", "import os, fcntl\nprint('kept')\ntry:\n    fcntl.fcntl(1, 1033, 15)\nexcept OSError: pass", statuses=(Status.OK, Status.ERROR), also="kept"),
    Attack("closed descriptors", "output", "import os\nfor n in range(64):\n    try: os.close(n)\n    except OSError: pass", statuses=(Status.OK, Status.ERROR)),
]  # fmt: skip

PYTHON = [
    Attack("project through frames", "python", (
        "import sys\nframe, found = sys._getframe(), []\nwhile frame:\n    found += [k for k in frame.f_globals if 'token' in k.lower() and 'ize' not in k]\n"
        "    frame = frame.f_back\nprint('BREACH' if found else 'held', found)"), also="held"),
    Attack("import the project", "python", _tries("import tasks.shared.sandbox"), also="held", control=True),
    Attack("hooks that know where the project is", "python", (
        "import sys\nnames = [repr(f) for f in sys.meta_path] + list(sys.modules)\n"
        "found = [n for n in names if 'editable' in n or n.startswith('tasks')]\nprint('BREACH' if found else 'held', found)"), also="held"),
    Attack("import what was not preloaded", "python", _tries("import torch"), also="held", control=True),
    Attack("environment", "python", "import os\nprint('BREACH' if 'SANDBOX_TEST_SECRET' in os.environ or len(os.environ) > 12 else 'held')", also="held", control=True),
    Attack("environment in memory", "python", _CTYPES + (
        "v = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')\nn, found = 0, b''\n"
        "while v[n]:\n    found += v[n]\n    n += 1\nprint('BREACH' if b'SANDBOX_TEST' in found else 'held')"), also="held", control=True),
    Attack("inherited descriptors", "python", (
        "import os\nopen_ = []\nfor n in range(4, 4096):\n    try:\n        os.fstat(n)\n        open_.append(n)\n    except OSError:\n        pass\n"
        "print('BREACH' if open_ else 'held', open_)"), also="held"),
    Attack("replaced exit", "python", (
        "import os, sys\nos._exit = lambda code: None\nsys.exit = print\nimport atexit\natexit.register(lambda: [None for _ in iter(int, 1)])"), statuses=(Status.TIMEOUT,)),
    Attack("replaced builtins", "python", "import builtins\nbuiltins.__dict__.clear()", statuses=ENDED),
    Attack("hostile message", "python", "class E(Exception):\n    def __str__(self): raise SystemExit(0)\nraise E()", statuses=(Status.ERROR,)),
    Attack("crash of the interpreter", "python", "import ctypes\nctypes.string_at(0)", statuses=(Status.ERROR,)),
    Attack("other thread after the end", "python", (
        "import threading, time\ndef late():\n    time.sleep(0.2)\n    print('BREACH')\nthreading.Thread(target=late, daemon=True).start()"), statuses=ENDED),
    Attack("feigned outage", "python", "import os\nos.close(3)\nos.abort()", statuses=(Status.ERROR, Status.FORBIDDEN)),
    Attack("forged report", "python", (
        "import os\nos.write(3, b'SandboxFailure: the sandbox failed')\nos._exit(1)"), statuses=(Status.ERROR, Status.FORBIDDEN)),
]  # fmt: skip

PROTOCOL = [
    Attack("floods its channel", "protocol", (
        "import socket\ns = socket.socket(1, 5, 0, fileno=3)\ns.setblocking(False)\n"
        "try:\n    while True: s.send(b'x' * 1000)\nexcept OSError: pass\nprint('done')"), also="done"),
    Attack("passes a descriptor to the broker", "protocol", _tries(
        "import socket\ns = socket.socket(1, 5, 0, fileno=3)\nsocket.send_fds(s, [b'X'], [0])"), also="held"),
    Attack("shuts its channel down", "protocol", "import socket\nsocket.socket(1, 5, 0, fileno=3).shutdown(2)\nprint('done')", also="done"),
    Attack("waits for a second request", "protocol", (
        "import socket\ns = socket.socket(1, 5, 0, fileno=3)\ns.settimeout(0.2)\n"
        "try: print('BREACH', s.recv(100))\nexcept OSError: print('held')"), also="held"),
]  # fmt: skip

ATTACKS = [*FILES, *NETWORK, *PROCESSES, *RESOURCES, *OUTPUT, *PYTHON, *PROTOCOL]
