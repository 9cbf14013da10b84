"""Every attack under every mode that a host allows. For the container: tests/containers."""

# ruff: noqa: E501 - a hostile program reads best on one line

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tasks.shared.sandbox import ExecutionResult, Limits, Status
from tests.integration.sandbox_attacks import ATTACKS, Attack
from tests.integration.sandbox_channels import CHANNELS, SENDERS
from tests.integration.sandbox_modes import MODES, Served, served

ROOMY = Limits(wall_s=30.0, cpu_s=20.0)
ABSTRACT = f"sandbox-test-abstract-{os.getpid()}"


@contextlib.contextmanager
def outside_world(directory: Path) -> Iterator[dict[str, str]]:
    """Targets of hostile programs: a file, listeners, a process, an environment variable."""
    secret = directory / "secret.txt"
    secret.write_text("the secret of the host")
    secret.chmod(0o666)
    directory.chmod(0o755)
    for parent in directory.parents[:3]:
        parent.chmod(0o755) if parent.stat().st_uid == os.geteuid() and str(parent) != "/tmp" else None
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        abstract.bind("\0" + ABSTRACT)
        abstract.listen()
        victim = subprocess.Popen(["sleep", "600"])
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        yield {
            "secret": str(secret),
            "port": str(tcp.getsockname()[1]),
            "abstract": ABSTRACT,
            "victim": str(victim.pid),
            "server_pid": str(os.getpid()),
            "server_socket": "/run/none",
        }
        assert victim.poll() is None, "a program killed a process outside"
        assert secret.read_text() == "the secret of the host"


def fill(attack: Attack, places: dict[str, str]) -> str:
    """The program with its places filled."""
    code = attack.code
    for name, value in places.items():
        code = code.replace("{" + name + "}", value)
    return code


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with outside_world(tmp_path_factory.mktemp("world")) as places:
        yield places


@pytest.fixture(scope="module", params=MODES)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(request.param) as running:
        yield running


@pytest.fixture(scope="module")
def results(sandbox: Served, world: dict[str, str]) -> dict[str, Future[ExecutionResult]]:
    """The results of all attacks at once in one mode."""
    places = world | {"server_pid": str(sandbox.pid), "server_socket": sandbox.socket}
    return {attack.name: sandbox.interpreter.submit(fill(attack, places)) for attack in ATTACKS}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_held(attack: Attack, sandbox: Served, results: dict[str, Future[ExecutionResult]]) -> None:
    result = results[attack.name].result()
    assert "BREACH" not in result.stdout + result.stderr, result
    assert result.status in attack.statuses, result
    assert attack.also in result.stdout, result
    after = sandbox.interpreter.run("import os\nprint(1 + 1, os.listdir('.'))")
    assert (after.status, after.stdout) == (Status.OK, "2 []\n"), after


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.control], ids=lambda attack: attack.name)
def test_attack_gets_through_where_nothing_isolates(
    attack: Attack, world: dict[str, str], tmp_path: Path
) -> None:
    """The control: these attacks succeed without the sandbox."""
    environment = {"PYTHONPATH": os.getcwd(), "SANDBOX_TEST_SECRET": "x"}
    for name in ("secret", "link"):
        (tmp_path / name).unlink(missing_ok=True)
    ran = subprocess.run(
        [sys.executable, "-c", fill(attack, world)],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert "BREACH" in ran.stdout, ran


SCANNER = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
first, second = b'MARKER-', b'OF-ANOTHER'  # never side by side in this program's own memory
reader, writer = os.pipe()
def read(address):
    return os.read(reader, 4096) if libc.write(writer, address, 4096) == 4096 else None
found, pages = 0, 0
for anchor in (id(object()), id(os), ctypes.addressof(ctypes.create_string_buffer(64)), id(bytearray(1 << 16))):
    base = anchor & ~4095
    for step in range(-4000, 4000):
        page = read(base + 4096 * step)
        pages += page is not None
        if page is not None:
            found += any(part.startswith(second) for part in page.split(first)[1:])
print(pages > 1000, 'BREACH' if found else 'clean')
"""


def test_memory_holds_no_other_program(sandbox: Served) -> None:
    """A child is a copy of its parent's memory: neither earlier nor waiting requests may be in it."""
    marked = "text = 'MARKER-OF-ANOTHER' * 50\nprint(text[:7])\nimport time; time.sleep(0.3)"
    others = [sandbox.interpreter.submit(marked) for _ in range(12)]
    result = sandbox.interpreter.run(SCANNER, limits=Limits(wall_s=8.0, cpu_s=8.0))
    assert result.stdout == "True clean\n", result
    assert all(other.result().stdout == "MARKER-\n" for other in others)


LEAKS = {
    "module attribute": ("import math\nmath.pi = 3", "import math\nprint(math.pi == 3)"),
    "new module": ("import sys, types\nsys.modules['left'] = types.ModuleType('left')", "import sys\nprint('left' in sys.modules)"),
    "builtin": ("import builtins\nbuiltins.left = 1", "import builtins\nprint(hasattr(builtins, 'left'))"),
    "global name": ("left = 1", "print('left' in globals())"),
    "environment": ("import os\nos.environ['LEFT'] = '1'", "import os\nprint('LEFT' in os.environ)"),
    "file": ("open('left', 'w').write('x')", "import os\nprint(os.path.exists('left'))"),
    "directories without permission": (
        "import os\nos.makedirs('a/b/c')\nopen('a/b/c/f', 'w')\nos.mkdir('shut', 0)", "import os\nprint(bool(os.listdir('.')))"),
    "sympy assumption": ("import sympy\nsympy.Integer.left = 1", "import sympy\nprint(hasattr(sympy.Integer, 'left'))"),
    "numpy error state": ("import numpy\nnumpy.seterr(all='raise')", "import numpy\nprint(numpy.geterr()['over'] == 'raise')"),
    "recursion limit": ("import sys\nsys.setrecursionlimit(77)", "import sys\nprint(sys.getrecursionlimit() == 77)"),
    "signal handler": ("import signal\nsignal.signal(signal.SIGALRM, print)", "import signal\nprint(signal.getsignal(14) is print)"),
    "integer digits": ("import sys\nsys.set_int_max_str_digits(9999)", "import sys\nprint(sys.get_int_max_str_digits() == 9999)"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_state_does_not_leak(name: str, sandbox: Served) -> None:
    plant, look = LEAKS[name]
    for _ in range(3):
        planted = sandbox.interpreter.run(plant)
        assert planted.status is Status.OK, planted
    for _ in range(6):
        assert sandbox.interpreter.run(look).stdout == "False\n"


def test_no_program_receives_from_another(sandbox: Served) -> None:
    """Receivers print the same before, during and after the senders."""
    open_ones = [channel for channel in CHANNELS if sandbox.mode in channel.stacks]
    limits = Limits(wall_s=20.0, cpu_s=10.0)
    silence = {channel.name: f"{channel.silence}\n" for channel in open_ones}

    def received() -> dict[str, str]:
        looks = {one.name: sandbox.interpreter.submit(one.look, limits=limits) for one in open_ones}
        return {name: look.result().stdout or look.result().error_line for name, look in looks.items()}

    assert received() == silence, "before the senders"
    senders = [
        sandbox.interpreter.submit(f"{code}\nimport time\ntime.sleep(1.5)", limits=limits) for code in SENDERS
    ]
    time.sleep(0.5)  # a late receiver would prove nothing
    assert received() == silence
    assert {sender.result().status for sender in senders} == {Status.OK}
    assert received() == silence, "after the senders"


def test_lock_of_a_program_is_not_seen_on_the_host(sandbox: Served) -> None:
    """A shared lock needs only read access and would keep the host from an exclusive one."""
    code = "import fcntl, os, time\nkept = os.open(os.__file__, 0)\nfcntl.lockf(kept, fcntl.LOCK_SH)\nprint('locked', flush=True)\n"
    sender = sandbox.interpreter.submit(code + "time.sleep(0.5)")
    with open(os.__file__, "r+") as library:
        while not sender.done():
            fcntl.lockf(library, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(library, fcntl.LOCK_UN)
            time.sleep(0.01)
    assert sender.result().stdout == "locked\n"


LEFTOVERS = {
    "every name that could be taken": (
        "os.makedirs('a/b')\nfor k in range(247): open('emptied-1' + '-' * k, 'w').close()\nos.makedirs('z/b')\n"
        "for n in range(300): open(str(n), 'w').close()"),
    "names that are no text": (
        "for name in (b'\\xff\\xfe', b'a\\nb', b'-rf', b' ', b'\\x01' * 255, b'\\xf0' * 255, b'..a', '\\u202e'.encode()):\n"
        "    os.mkdir(name)\n    open(name + b'/' + name, 'w').close()"),
    "a long chain, shut": (
        "os.umask(0o777)\ntry:\n    for n in range(2000):\n        fd = os.open('.', os.O_PATH)\n        os.mkdir('d' * 255)\n"
        "        os.chdir('d' * 255)\nexcept OSError: pass"),
    "links": (
        "os.symlink('.', 'self')\nos.symlink('/', 'root')\nos.symlink('self/self/loop', 'loop')\nos.mkdir('d')\n"
        "open('f', 'w').close()\nfor n in range(200): os.link('f', f'd/h{n}')\nos.symlink('../' * 900, 'up')"),
    "all inodes and all room": (
        "try:\n    for n in range(10**6): open(f'i{n}', 'w').close()\nexcept OSError: pass\n"
        "try:\n    for n in range(64): open(f'i{n}', 'wb').write(bytes(1 << 20))\nexcept OSError: pass"),
    "itself removed": "for path in (os.getcwd(), '../' + os.path.basename(os.getcwd()), '.'):\n    try: os.rmdir(path)\n    except OSError: pass",
    "its place renamed": "here = os.getcwd()\ntry: os.rename(here, here + 'x')\nexcept OSError: pass\ntry: os.rename('.', '../y')\nexcept OSError: pass",
    "files open and mapped": (
        "import mmap\nkept = [open(f'o{n}', 'w+b') for n in range(40)]\nfor f in kept:\n    f.truncate(4096)\n    mmap.mmap(f.fileno(), 4096)\n"
        "    os.unlink(f.name)"),
    "holes": "with open('hole', 'wb') as f: f.truncate(1 << 23)\nos.fdatasync(os.open('hole', 0))",
}  # fmt: skip


@pytest.mark.parametrize("name", LEFTOVERS)
def test_leftovers_do_not_affect_a_worker(name: str, sandbox: Served) -> None:
    before = sandbox.interpreter.health()
    left = [sandbox.interpreter.submit(f"import os\n{LEFTOVERS[name]}", limits=ROOMY) for _ in range(6)]
    assert [one.result().status for one in left] == [Status.OK] * 6, left[0].result()
    after = [sandbox.interpreter.submit("import os\nprint(os.listdir('.'))") for _ in range(12)]
    assert [one.result().stdout for one in after] == ["[]\n"] * 12
    health = sandbox.interpreter.health()
    assert (health["restarts"], health["retries"]) == (before["restarts"], before["retries"])


def test_directory_of_a_neighbour_is_out_of_reach(sandbox: Served) -> None:
    neighbour = sandbox.interpreter.submit(
        "import time\nopen('mine', 'w').write('x')\ntime.sleep(0.6)\nprint(open('mine').read())", limits=ROOMY
    )
    look = (
        "import os, time\ntime.sleep(0.1)\nhere, found = os.getcwd(), []\nfor n in range(40):\n    for base in "
        "(os.path.dirname(here) + f'/{n}', here.rstrip('0123456789') + str(n)):\n        if base == here: continue\n        try:\n            "
        "found.append(os.listdir(base))\n        except OSError:\n            pass\n        try:\n            open(base + '/mine').read()\n"
        "            found.append(base)\n        except OSError:\n            pass\nprint(found)"
    )  # fmt: skip
    results = [sandbox.interpreter.submit(look, limits=ROOMY) for _ in range(3)]
    assert [result.result().stdout for result in results] == ["[]\n"] * 3
    assert neighbour.result().stdout == "x\n"
