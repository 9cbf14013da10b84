"""A Docker engine that a drill may kill. It uses this machine's data root, which has the images.

It never runs beside another one: if an engine already answers, the drill is skipped.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

from tasks.launch.backends.container import SCRATCH_LABEL

START_S = 180.0  # after a kill it first ends the containers that it finds
STOP_S = 60.0


class OwnDocker:
    """`dockerd` as a child of this process."""

    def __init__(self, directory: Path, live_restore: bool) -> None:
        self.address = f"unix://{directory}/docker.sock"
        self._log = directory / "dockerd.log"
        self._command = ["dockerd", "--host", self.address, *(["--live-restore"] if live_restore else [])]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it, and restart it if it exits, as a service manager does.

        Returns the seconds until it answers. It exits while the process table still has the containerd of a killed
        engine.
        """
        started = time.monotonic()
        while not self.answers():
            if not self.is_running:
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(
                        self._command, stdout=log, stderr=log, start_new_session=True
                    )
            assert time.monotonic() - started < START_S, (
                f"dockerd does not answer: {self._log.read_text()[-1000:]}"
            )
            time.sleep(0.2)
        return time.monotonic() - started

    def answers(self) -> bool:
        try:
            return bool(docker.DockerClient(self.address, timeout=10).ping())
        except (DockerException, OSError):  # requests' errors are OSErrors
            return False

    def end(self, number: signal.Signals) -> None:
        """Send a signal and wait for the exit."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(STOP_S)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None


@contextmanager
def own_docker(directory: Path, home: Path, live_restore: bool) -> Iterator[OwnDocker]:
    """Run an engine; at the end remove the containers of `home` and stop it."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("starting a Docker engine needs root and dockerd")
    if subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        pytest.skip("a Docker engine runs that is not this drill's: it is not killed")
    engine = OwnDocker(directory, live_restore)
    try:
        engine.start()
        yield engine
    finally:
        if not engine.is_running:
            engine.start()
        client = docker.DockerClient(engine.address)
        for container in client.containers.list(all=True, filters={"label": SCRATCH_LABEL}):
            if container.labels[SCRATCH_LABEL].startswith(str(home)):
                container.remove(force=True)
        engine.end(signal.SIGTERM)
