"""Starts a sandbox server in each mode of platform: root on the host, ordinary user, no namespaces.

The ordinary user is `nobody`. Where it cannot reach this interpreter (in root's home), the tests make a virtual
environment of the system's interpreter that has the same packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
MODES = ("root", "user", "landlock")
SETTINGS = SandboxSettings(limits=Limits(wall_s=0.7, cpu_s=1.0, memory_mb=256), slots=3)


@dataclass(frozen=True, slots=True)
class Served:
    """A running server and its client."""

    mode: str
    interpreter: Interpreter
    socket: str
    pid: int


def _runs_as_nobody(python: str) -> bool:
    command = [python, "-c", "import encodings"]
    try:
        ran = subprocess.run(
            command, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, check=False
        )
    except PermissionError:
        return False
    return ran.returncode == 0


def python_for_nobody(directory: Path) -> str:
    """An interpreter that `nobody` can run, with this one's packages."""
    if _runs_as_nobody(sys.executable):
        return sys.executable
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(directory / "python")], check=True)
    site = next((directory / "python" / "lib").glob("python3.*")) / "site-packages"
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(directory / "python" / "bin" / "python")


@contextlib.contextmanager
def scratch_mounts(directory: Path, number: int, size_mb: int) -> Iterator[tuple[str, ...]]:
    """Mount tmpfs file systems, as a container's `--tmpfs` options do."""
    paths = [directory / f"scratch{index}" for index in range(number)]
    for path in paths:
        path.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,nr_inodes=1k", "tmpfs", path], check=True
        )
    try:
        yield tuple(str(path) for path in paths)
    finally:
        for path in paths:
            subprocess.run(["umount", "--lazy", path], check=True)


@contextlib.contextmanager
def served(mode: str, settings: SandboxSettings = SETTINGS) -> Iterator[Served]:
    """Start a server in the given mode and connect an interpreter to it."""
    assert os.geteuid() == 0, "the modes of the sandbox are set up by root: run these tests as root"
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="sandbox-mode-"))
        stack.callback(shutil.rmtree, directory)
        directory.chmod(0o755)
        python, who = sys.executable, {}
        if mode == "user":
            python = python_for_nobody(directory)
            who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        elif mode == "landlock":
            mounts = scratch_mounts(directory, settings.workers * settings.slots, settings.limits.disk_mb)
            settings = replace(settings, isolation="landlock", scratch_dirs=stack.enter_context(mounts))
        run_dir = directory / "run"
        run_dir.mkdir(mode=0o700)
        os.chown(run_dir, who.get("user", 0), who.get("group", 0))
        path = str(run_dir / "socket")
        command = [python, "-m", "tasks.shared.sandbox.server", "--socket", path, "--until-stdin-closes"]
        command += ["--settings", json.dumps(asdict(settings))]
        environment = {"PYTHONPATH": str(ROOT), "SANDBOX_TEST_SECRET": "of the server", "PATH": os.defpath}
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/", **who
        )
        assert server.stdin is not None and server.stdout is not None
        stack.callback(server.stdout.close)
        stack.callback(server.wait, 20)
        stack.callback(server.stdin.close)
        answer = json.loads(server.stdout.readline())
        assert "ready" in answer, answer
        assert answer["isolation"] == ("landlock" if mode == "landlock" else "namespaces")
        interpreter = stack.enter_context(Interpreter(settings, address=path))
        yield Served(mode, interpreter, path, server.pid)
