"""Asks the server of forks for a process.

As `sitecustomize` of an interpreter it hands that one's module to the server.

Standard library alone: an interpreter loads it at its start. `preloaded.json` in its prefix names the server's socket
and the modules whose `python -m MODULE` is handed over; the interpreter then waits for the fork, passes signals on to
it, and ends as it ends.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MOST_DESCRIPTORS = 250


class Fork:
    """A process of the server's, which dies with this object's connection."""

    def __init__(
        self,
        server: str,
        arguments: Sequence[str],
        descriptors: Mapping[int, int],
        environment: Mapping[str, str],
        executable: str = sys.executable,
    ) -> None:
        """Start `python -m arguments` here; `descriptors`: which number it has there, for each of ours."""
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(server)
        os.umask(umask := os.umask(0))
        request = {
            "arguments": list(arguments),
            "descriptors": list(descriptors.values()),
            "environment": dict(environment),
            "directory": os.getcwd(),
            "umask": umask,
            "executable": executable,
        }
        text = json.dumps(request).encode()
        socket.send_fds(self.connection, [b"%d\n" % len(text)], list(descriptors))
        self.connection.sendall(text)
        self._answers = self.connection.makefile("r")
        self.pid = int(self._answers.readline())

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self.connection.sendall(bytes([number]))

    def wait(self) -> int:
        """Wait for the end. Returns the exit code, -N after signal N."""
        return int(self._answers.readline())

    def close(self) -> None:
        """Close the connection, which kills the process."""
        self._answers.close()
        self.connection.close()


def receive(connection: socket.socket) -> dict[str, Any]:
    """In the server: receive a request. `descriptors` are pairs of a received descriptor and its number in the fork."""
    data, received, _, _ = socket.recv_fds(connection, 65536, MOST_DESCRIPTORS)
    while b"\n" not in data:
        data += connection.recv(1)
    length, _, text = data.partition(b"\n")
    while len(text) < int(length):
        text += connection.recv(65536)
    request: dict[str, Any] = json.loads(text)
    request["descriptors"] = list(zip(received, request["descriptors"], strict=True))
    return request


def hand_over() -> None:
    """Let the server run this interpreter's module, if it is listed."""
    settings = json.loads((Path(sys.prefix) / "preloaded.json").read_text())
    words = sys.orig_argv
    if "-m" not in words or words[words.index("-m") + 1] not in settings["modules"]:
        return
    arguments = words[words.index("-m") + 1 :]
    inherited = {fd: fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd)}
    fork = Fork(settings["server"], arguments, inherited, os.environ)
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: fork.signal(number))
    code = fork.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


def _is_open(fd: int) -> bool:
    """False for the descriptor with which the open ones were listed."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


if __name__ == "sitecustomize":
    hand_over()
