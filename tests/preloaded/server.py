"""A process with the stages' imports that forks a process for each request.

python -m tests.preloaded.server SOCKET OWNER

A fork is a process like any other: it has its own session, descriptors, environment and exit status. It is killed
when its client dies. The server ends with the process OWNER.
"""

import fcntl
import gc
import importlib
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.preloaded.client import receive

STAGES = ("prepare", "synthesize", "sft", "rl", "evaluate", "report")
# Imports of running stages, beside those of their `main`.
LATER = (
    "tasks.shared.generation.beside_process",
    "tasks.synthesize.teachers.endpoint",
    "torch.distributed.run",
    "transformers.models.qwen2.modeling_qwen2",
    "datasets",
    "peft",
)
BEYOND_REACH = 1000  # first number for descriptors until they get their own
Request = dict[str, Any]


def main() -> None:
    """Serve until the owner ends; in a fork, run what was asked for."""
    path, owner = Path(sys.argv[1]), int(sys.argv[2])
    preload()
    listening, unready = socket.socket(socket.AF_UNIX), path.with_name("unready")
    listening.bind(str(unready))
    listening.listen(64)
    unready.rename(path)  # a client that finds it is answered
    request = Server(listening, owner).serve()
    if request is not None:
        become(request)
    else:
        shutil.rmtree(path.parent)


def preload() -> None:
    """Import the slow modules."""
    import torch

    from tasks.shared.contract.environment import tell_deepspeed_of_cpu

    torch.set_num_threads(1)
    for name in (*(f"tasks.{stage}.main" for stage in STAGES), *LATER):
        importlib.import_module(name)
    if not torch.cuda.is_available():
        tell_deepspeed_of_cpu()
        importlib.import_module("deepspeed")
    gc.collect()
    gc.freeze()  # a collection in a fork would scan all objects and copy their pages


class Server:
    """Forks, sends pid and exit code to the client, and kills forks whose client is gone."""

    def __init__(self, listening: socket.socket, owner: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._listening = listening
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        self._selector.register(os.pidfd_open(owner), selectors.EVENT_READ, self._end)
        self._request: Request | None = None
        self._serving = True

    def serve(self) -> Request | None:
        """None when the owner has ended; in a fork, its task."""
        while self._serving:
            for key, _ in self._selector.select():
                key.data()
                if self._request is not None:
                    return self._request
        return None

    def _end(self) -> None:
        self._serving = False

    def _accept(self) -> None:
        connection, _ = self._listening.accept()
        request = receive(connection)
        pid = os.fork()
        if pid == 0:
            connection.close()
            for key in list(self._selector.get_map().values()):
                os.close(key.fileobj) if isinstance(key.fileobj, int) else key.fileobj.close()
            self._selector.close()
            self._request = request
            return
        for fd, _ in request["descriptors"]:
            os.close(fd)
        with suppress(OSError):  # a client that is gone is noticed next
            connection.sendall(b"%d\n" % pid)
        ended = os.pidfd_open(pid)
        self._selector.register(ended, selectors.EVENT_READ, lambda: self._reap(pid, ended, connection))
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._hear(pid, connection))

    def _hear(self, pid: int, connection: socket.socket) -> None:
        """Read a signal's number. The end of the connection is the end of the client."""
        if connection.fileno() < 0:
            return  # it has just ended
        try:
            number = connection.recv(1)
        except ConnectionResetError:  # it closed without reading everything
            number = b""
        if not number:
            self._selector.unregister(connection)
        os.kill(pid, number[0] if number else signal.SIGKILL)

    def _reap(self, pid: int, ended: int, connection: socket.socket) -> None:
        _, status = os.waitpid(pid, 0)
        self._selector.unregister(ended)
        os.close(ended)
        with suppress(KeyError):  # the client is gone
            self._selector.unregister(connection)
        with suppress(OSError):
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        connection.close()


def become(request: Request) -> None:
    """Become the requested process."""
    os.setsid()
    moved = []
    for fd, number in request["descriptors"]:
        moved.append((fcntl.fcntl(fd, fcntl.F_DUPFD, BEYOND_REACH), number))
        os.close(fd)
    for fd, number in moved:
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin = os.fdopen(0)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1) for fd in (1, 2))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    os.umask(request["umask"])
    sys.executable = request["executable"]
    sys.path[0] = request["directory"]
    sys.argv = request["arguments"]
    sys.modules.pop(sys.argv[0], None)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
