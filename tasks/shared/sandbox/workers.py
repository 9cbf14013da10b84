"""The broker's side of the worker processes: starts the zygote, asks it for workers, follows each child.

A worker that dies is replaced, and whoever waited for one of its children is told. All calls run in the
event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tasks.shared.sandbox.metrics import Metrics
from tasks.shared.sandbox.records import SandboxSettings, SandboxUnavailable
from tasks.shared.sandbox.worker import EXITED, PROMOTE, READY
from tasks.shared.sandbox.zygote import WORKER_REQUEST

_START_S = 60.0
_STOP_S = 5.0
_FAST_DEATHS = 5
"""Deaths of a worker in a row, none of which gave a child, before the server gives up."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended, as its parent saw it."""

    status: int
    """Wait status."""
    cpu_s: float
    peak_bytes: int


@dataclass(eq=False, slots=True)
class Child:
    """A confined process that waits for a program, or runs one."""

    worker: WorkerLink
    number: int
    channel: socket.socket
    pidfd: int
    on_end: Callable[[Exit | None], None] | None = None
    """Called once: with how it ended, or with None when its worker was lost."""

    def kill(self) -> None:
        """End it at once; `on_end` follows."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. To one that has just ended by itself it does nothing: `on_end` follows."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def promote(self) -> None:
        """Keep it as a session: the worker makes another child in its place."""
        self.worker.send(PROMOTE.pack(b"P", self.number))

    def close(self) -> None:
        """Let go of the descriptors."""
        self.channel.close()
        os.close(self.pidfd)


@dataclass(eq=False, slots=True)
class WorkerLink:
    """One worker process, seen from the broker."""

    index: int
    control: socket.socket
    children: dict[int, Child] = field(default_factory=dict)
    ready: list[Child] = field(default_factory=list)
    reason: str = ""

    def send(self, message: bytes) -> None:
        """A message to the worker; its death is noticed by the reader of the same socket."""
        try:
            self.control.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return


class WorkerSet:
    """All workers of a server, and the zygote they come from."""

    def __init__(self, settings: SandboxSettings, metrics: Metrics, on_ready: Callable[[], None]) -> None:
        self._settings, self._metrics, self._on_ready = settings, metrics, on_ready
        self._links: dict[int, WorkerLink] = {}
        self._deaths: dict[int, int] = {}
        self._zygote: subprocess.Popen[bytes] | None = None
        self._zygote_control: socket.socket | None = None
        self._closing = False
        self.isolation = ""
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Set, with the reason, when workers can no longer be started."""

    def start(self) -> None:
        """Start the zygote and its workers; blocks for the imports. Raises SandboxUnavailable."""
        self._start_zygote()
        for index in range(self._settings.workers):
            self._start_worker(index)

    def _start_zygote(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = Path(__file__).resolve().parents[3]
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(root),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
            "HOME": "/",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "tasks.shared.sandbox.zygote", "--control", str(theirs.fileno())]
        self._zygote = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        self._zygote_control = ours
        names = ("preload", "isolation", "allow_unsafe", "slots", "workers", "scratch_dirs")
        settings = {name: getattr(self._settings, name) for name in names}
        ours.send(json.dumps({**settings, "disk_mb": self._settings.limits.disk_mb}).encode())
        ours.settimeout(_START_S)
        try:
            answer = json.loads(
                ours.recv(65536) or b'{"failed": "the warm interpreter died while it started"}'
            )
        except TimeoutError:
            answer = {"failed": f"the warm interpreter was not ready after {_START_S:.0f} s"}
        if "failed" in answer:
            self._zygote.kill()
            self._zygote.wait()
            raise SandboxUnavailable(answer["failed"])
        ours.settimeout(None)
        self.isolation = answer["ready"]

    def _start_worker(self, index: int) -> None:
        assert self._zygote_control is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        link = WorkerLink(index, ours)
        self._links[index] = link
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read, link)
        try:
            socket.send_fds(self._zygote_control, [WORKER_REQUEST.pack(index)], [theirs.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            self._restart_zygote()
            socket.send_fds(self._zygote_control, [WORKER_REQUEST.pack(index)], [theirs.fileno()])
        theirs.close()

    def _restart_zygote(self) -> None:
        assert self._zygote is not None and self._zygote_control is not None
        self._zygote.kill()
        self._zygote.wait()
        self._zygote_control.close()
        self._metrics.restarts += 1
        self._start_zygote()

    def _read(self, link: WorkerLink) -> None:
        """Messages of one worker."""
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(link.control, 4096, 2)
            except BlockingIOError:
                return
            except ConnectionResetError:
                message, descriptors = b"", []
            if message[:1] == b"R" and len(descriptors) == 2:
                _, number = READY.unpack(message)
                channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=descriptors[0])
                channel.setblocking(False)
                child = Child(link, number, channel, descriptors[1])
                link.children[number] = child
                link.ready.append(child)
                self._deaths[link.index] = 0
                self._on_ready()
            elif message[:1] == b"X":
                _, number, status, cpu_s, peak = EXITED.unpack(message)
                self._ended(link, number, Exit(status, cpu_s, peak))
            elif message[:1] == b"F":
                link.reason = message[1:].decode("utf-8", "replace")
            else:
                for descriptor in descriptors:  # a child whose descriptors did not all fit in here
                    os.close(descriptor)
                self._lost(link)
                return

    def _ended(self, link: WorkerLink, number: int, how: Exit) -> None:
        child = link.children.pop(number)
        if child in link.ready:
            link.ready.remove(child)
        if child.on_end is not None:
            child.on_end(how)
        child.close()

    def _lost(self, link: WorkerLink) -> None:
        """A worker is gone: tell those who wait, and start another in its place."""
        asyncio.get_running_loop().remove_reader(link.control.fileno())
        link.control.close()
        if self._closing:
            return
        self._metrics.restarts += 1
        deaths = self._deaths[link.index] = self._deaths.get(link.index, 0) + 1
        children = list(link.children.values())
        link.children.clear()
        link.ready.clear()
        for child in children:
            child.kill()
            if child.on_end is not None:
                child.on_end(None)
            child.close()
        if deaths < _FAST_DEATHS:
            self._start_worker(link.index)  # last, for it needs descriptors that the children held
        elif not self.failed.done():
            self.failed.set_result(link.reason or "workers die as soon as they start")

    def take(self) -> Child | None:
        """A ready child of the worker with the most of them; None where all are busy."""
        link = max(self._links.values(), key=lambda candidate: len(candidate.ready))
        return link.ready.pop() if link.ready else None

    def num_children(self) -> int:
        """Living children, ready, running and sessions."""
        return sum(len(link.children) for link in self._links.values())

    def close(self) -> None:
        """End every worker and the zygote, and wait for them."""
        self._closing = True
        loop = asyncio.get_running_loop()
        for link in self._links.values():
            if link.control.fileno() >= 0:
                loop.remove_reader(link.control.fileno())
                link.control.close()
            for child in link.children.values():
                child.kill()
                child.close()
        self._links.clear()
        if self._zygote is not None and self._zygote_control is not None:
            self._zygote_control.close()
            try:
                self._zygote.wait(_STOP_S)  # it waits for its workers, and they for their children
            except subprocess.TimeoutExpired:
                self._zygote.kill()
                self._zygote.wait()
