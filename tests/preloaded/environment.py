"""The server of forks of this test run, and interpreters that hand over to it."""

import fcntl
import functools
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from tests.preloaded import client

START_TIMEOUT_S = 300.0


@functools.cache
def server() -> Path:
    """The socket of the server, which all processes of a test run share. The first to ask starts it."""
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    began = int(psutil.Process(owner).create_time())
    directory = Path(tempfile.gettempdir()) / f"tirflow-preloaded-{owner}-{began}"
    directory.mkdir(exist_ok=True)
    path = directory / "socket"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _start(path, owner)
    return path


def _start(path: Path, owner: int) -> None:
    """Start the server and wait until it listens."""
    with (path.parent / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded.server", str(path), str(owner)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not path.exists():
        read_log = (path.parent / "log").read_text
        assert process.poll() is None and time.monotonic() < deadline, (
            f"the server did not start: {read_log()}"
        )
        time.sleep(0.05)


@functools.cache
def interpreter(modules: Iterable[str]) -> Path:
    """A Python with this one's packages that hands `-m` of these modules over to the server."""
    prefix = Path(tempfile.mkdtemp(prefix="python-", dir=server().parent))
    prefix.chmod(0o755)  # other users' programs need access
    (prefix / "preloaded.json").write_text(json.dumps({"server": str(server()), "modules": list(modules)}))
    base = Path(os.path.realpath(sys.executable))
    (prefix / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    packages = prefix / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "packages.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    (packages / "sitecustomize.py").symlink_to(client.__file__)
    (prefix / "bin").mkdir()
    python = prefix / "bin" / "python"
    python.symlink_to(base)
    return python
