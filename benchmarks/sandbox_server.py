"""A sandbox server as a subprocess, as a stage starts one, for the benchmarks that measure it."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from tasks.shared.sandbox import SandboxSettings


@contextmanager
def sandbox_server(settings: SandboxSettings) -> Iterator[tuple[str, int]]:
    """The path of a server's socket and its process id; it has ended when the block has."""
    with tempfile.TemporaryDirectory(prefix="sandbox-server-") as directory:
        path = f"{directory}/socket"
        command = [sys.executable, "-m", "tasks.shared.sandbox.server", "--socket", path]
        command += ["--until-stdin-closes", "--settings", json.dumps(asdict(settings))]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None and server.stdin is not None
        if "ready" not in (line := server.stdout.readline()):
            raise SystemExit(f"the sandbox server did not start: {line.strip()}")
        try:
            yield path, server.pid
        finally:
            server.stdin.close()
            server.wait()
            server.stdout.close()
