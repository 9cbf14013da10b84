"""A stage's running container: its output, its exit, its removal, and the removal of containers that others left.

Everything of one attempt is named after its scratch directory, whose lock its launcher holds. So equal work has one
container, and a container whose lock is free has lost its launcher.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from tasks.launch.backends.backend import Away, Exit
from tasks.shared.contract.environment import home

KILLED, TERMINATED = 128 + signal.SIGKILL, 128 + signal.SIGTERM
LOSS_S = 12.0  # an engine that is stopped first gives its containers 10 s
LOSS_POLL_S = 0.5
SCRATCH_LABEL, PART_LABEL = "tirflow.scratch", "tirflow.part"


@contextlib.contextmanager
def asking_engine() -> Iterator[None]:
    """Raise Away if the connection is refused or breaks. Errors that the engine answers pass."""
    try:
        yield
    except APIError:
        raise
    except (DockerException, RequestException, HTTPError) as error:
        raise Away(
            f"TIRFLOW_BACKEND = docker: no Docker engine answers ({error}); start one, or use TIRFLOW_BACKEND=process"
        ) from None


class RunningContainer:
    """A stage's container, just started or found running."""

    def __init__(self, container: Container, log_path: Path, grace_s: float, since: int = 0) -> None:
        """Output is read from `since` on, in seconds since the epoch; 0 reads all of it."""
        self._container = container
        self._scratch = Path(container.labels[SCRATCH_LABEL])
        self._grace_s = grace_s
        self._since = since
        self._broken = False  # the engine went away while its output was read
        self._errors = threading.Thread(target=self._copy_stderr, args=(log_path,), daemon=True)
        self._errors.start()

    def lines(self) -> Iterator[str]:
        """Yield its stdout line by line, until it has ended or is gone."""
        rest = ""
        for chunk in self._output(stdout=True):
            *lines, rest = (rest + chunk).split("\n")
            yield from lines
        if rest:
            yield rest

    def wait(self) -> Exit:
        """Return its exit: lost if the container no longer exists, away if no engine answers."""
        try:
            with asking_engine():
                code = self._container.wait(timeout=60)["StatusCode"]
                self._errors.join(timeout=5)
                self._container.reload()
                if code and self._container.attrs["State"]["OOMKilled"]:
                    return Exit(code, "out_of_memory")
                if code in (KILLED, TERMINATED):
                    self._wait_for_loss()
        except NotFound:
            return Exit(KILLED, "lost")
        except Away:
            return Exit(KILLED, "away")
        return Exit(code, "away" if code and self._broken else "")

    def stop(self) -> None:
        """End it, and remove it with its interpreter, socket and secrets.

        If no engine answers, the next start on this host removes what is left.
        """
        with contextlib.suppress(Away), asking_engine():
            with contextlib.suppress(NotFound):  # removed by somebody else, or by an earlier call
                self._container.stop(timeout=round(self._grace_s))
            remove(self._container.client, self._scratch)

    def _wait_for_loss(self) -> None:
        """Raise NotFound or Away if one of these explains the signal; both become visible a moment later."""
        deadline = time.monotonic() + LOSS_S
        while time.monotonic() < deadline and not self._broken:
            time.sleep(LOSS_POLL_S)
            self._container.reload()

    def _copy_stderr(self, log_path: Path) -> None:
        with log_path.open("a") as log:
            for chunk in self._output(stdout=False):
                log.write(chunk)
                log.flush()

    def _output(self, stdout: bool) -> Iterator[str]:
        """Yield pieces of a stream until it ends, or until the container or the engine is gone."""
        try:
            with asking_engine():
                stream = self._container.logs(
                    stream=True, follow=True, stdout=stdout, stderr=not stdout, since=self._since or None
                )
                for chunk in stream:
                    yield chunk.decode(errors="replace")
        except NotFound:
            return
        except Away:
            self._broken = True


def name_of(scratch: Path, part: str) -> str:
    """Return the name of a scratch directory's container, for the part `stage` or `sandbox`."""
    return f"tirflow-{hashlib.sha256(str(scratch).encode()).hexdigest()[:12]}-{part}"


def private_directory(scratch: Path) -> Path:
    """Return the host's directory for socket and secrets of an attempt."""
    return home() / "containers" / name_of(scratch, "stage")


def remove(engine: docker.DockerClient, scratch: Path) -> None:
    """Remove the containers of a scratch directory, running or not, and their private directory."""
    for part in ("stage", "sandbox"):
        try:
            engine.containers.get(name_of(scratch, part)).remove(force=True, v=True)
        except NotFound:
            continue
        except APIError as error:
            if error.status_code != 409:  # another process is removing it
                raise
    shutil.rmtree(private_directory(scratch), ignore_errors=True)


def reap(engine: docker.DockerClient) -> None:
    """Remove the containers of launchers that died on this host."""
    for container in engine.containers.list(all=True, filters={"label": SCRATCH_LABEL}, ignore_removed=True):
        scratch = Path(container.labels[SCRATCH_LABEL])
        if _has_no_launcher(scratch):
            remove(engine, scratch)


def _has_no_launcher(scratch: Path) -> bool:
    """Whether the lock of a scratch directory of this home is free."""
    lock = scratch.with_name(scratch.name + ".lock")
    if not lock.is_relative_to(home()) or not lock.exists():
        return False
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
