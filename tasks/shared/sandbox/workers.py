"""The broker's side of the worker processes: starts the zygote, requests workers from it, follows each child.

A worker that dies is replaced, and the owners of its children are notified. All calls run in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tasks.shared.sandbox.libraries import ENVIRONMENT
from tasks.shared.sandbox.links import Child, Exit, WorkerLink
from tasks.shared.sandbox.metrics import Metrics
from tasks.shared.sandbox.records import SandboxSettings, SandboxUnavailable
from tasks.shared.sandbox.worker import ALIVE, EXITED, FAILED, HEALTH_CHECK, HELLO, READY
from tasks.shared.sandbox.zygote import WORKER_REQUEST

_START_S = 60.0
_STOP_S = 5.0
_FAST_DEATHS = 5
"""Deaths in a row of a worker that never had a ready child, before the server gives up."""
_BEAT_S = 1.0
_SILENT_BEATS = 15
"""Unanswered health checks before a worker is replaced. They are counted, because the server may stand still too."""


class WorkerSet:
    """All workers of a server, and the zygote they come from."""

    def __init__(self, settings: SandboxSettings, metrics: Metrics, on_ready: Callable[[], None]) -> None:
        self._settings, self._metrics, self._on_ready = settings, metrics, on_ready
        self._links: dict[int, WorkerLink] = {}
        self._deaths: dict[int, int] = {}
        self._zygote: subprocess.Popen[bytes] | None = None
        self._zygote_control: socket.socket | None = None
        self._closing = False
        self._zygote_is_stuck = False
        self._reviving: asyncio.Task[None] | None = None
        self._missing: set[int] = set()
        """Workers to start when there is a zygote again."""
        self._beat_timer: asyncio.TimerHandle | None = None
        self._alive: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.isolation = ""
        self.warm_mb = 0
        """Private writable memory of the warm interpreter."""
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Set, with the reason, when workers can no longer be started."""

    def start(self) -> None:
        """Start the zygote and its workers, and wait for the imports. Raises SandboxUnavailable."""
        self._start_zygote()
        for index in range(self._settings.workers):
            self._start_worker(index)
        self._beat_timer = asyncio.get_running_loop().call_later(_BEAT_S, self._beat)

    async def first_child(self) -> None:
        """Return once a program can run. Raises SandboxUnavailable, with the reason, if none ever can."""
        outcomes: set[asyncio.Future[Any]] = {self._alive, self.failed}
        await asyncio.wait(outcomes, return_when=asyncio.FIRST_COMPLETED)
        if not self._alive.done():
            raise SandboxUnavailable(f"the sandbox cannot run programs here: {self.failed.result()}")

    def _beat(self) -> None:
        """Check the health of every worker, and replace those that have not answered for long."""
        self._beat_timer = asyncio.get_running_loop().call_later(_BEAT_S, self._beat)
        for link in list(self._links.values()):
            if link.silent >= _SILENT_BEATS:
                self.give_up(link, f"a worker answered nothing for {_SILENT_BEATS * _BEAT_S:.0f} s")
            else:
                link.silent += 1
                link.send(HEALTH_CHECK)

    def give_up(self, link: WorkerLink, reason: str) -> None:
        """Replace a worker that does not do its work."""
        if self._links.get(link.index) is not link:
            return
        link.reason = reason
        if link.pidfd < 0:
            self._zygote_is_stuck = True  # it never made the worker
        self._lost(link)

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
            **ENVIRONMENT,
        }
        command = [sys.executable, "-m", "tasks.shared.sandbox.zygote", str(theirs.fileno())]
        self._zygote = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            umask=0o022,  # programs of other users must be able to enter the root that a worker builds
        )
        theirs.close()
        self._zygote_control = ours
        # Every program's memory holds these settings, and where the token is concerns none.
        ours.send(json.dumps(asdict(replace(self._settings, token_file=""))).encode())
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
        self.isolation, self.warm_mb = answer["ready"], answer["warm_mb"]

    def _start_worker(self, index: int) -> None:
        if self._reviving is not None:
            self._missing.add(index)
            return
        assert self._zygote_control is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            with theirs:
                if self._zygote_is_stuck:
                    raise BrokenPipeError
                socket.send_fds(self._zygote_control, [WORKER_REQUEST.pack(index)], [theirs.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            ours.close()
            self._links.pop(index, None)
            self._missing.add(index)
            self._reviving = asyncio.get_running_loop().create_task(self._restart_zygote())
            return
        link = WorkerLink(index, ours)
        self._links[index] = link
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read, link)

    async def _restart_zygote(self) -> None:
        """Start another zygote in the background, and then the missing workers."""
        assert self._zygote is not None and self._zygote_control is not None
        self._metrics.restarts += 1
        self._zygote.kill()
        self._zygote_control.close()
        try:
            await asyncio.to_thread(self._zygote.wait)
            await asyncio.to_thread(self._start_zygote)
        except (SandboxUnavailable, OSError) as error:
            if not self.failed.done():
                self.failed.set_result(str(error))
            return
        finally:
            self._reviving = None
        self._zygote_is_stuck = False
        while self._missing:
            self._start_worker(self._missing.pop())

    def _read(self, link: WorkerLink) -> None:
        """Handle the messages of one worker."""
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(link.control, 4096, 2)
            except BlockingIOError:
                return
            except ConnectionResetError:
                message, descriptors = b"", []
            link.silent = 0
            if message[:1] == b"R":
                self._child_ready(link, message, descriptors)
            elif message[:1] == b"X":
                _, number, *observed = EXITED.unpack(message)
                self._child_ended(link, number, Exit(*observed))
            elif message == HELLO:
                link.pidfd = descriptors[0] if descriptors else -1
            elif message[:1] == FAILED:
                link.reason = message[1:].decode("utf-8", "replace")
            elif message != ALIVE:
                self._lost(link)
                return

    def _child_ready(self, link: WorkerLink, message: bytes, descriptors: list[int]) -> None:
        # At the limit of open files descriptors get lost. A child without its channel ends, and another is made.
        if len(descriptors) != 2:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        _, number = READY.unpack(message)
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=descriptors[0])
        channel.setblocking(False)
        child = Child(link, number, channel, descriptors[1])
        link.children[number] = child
        link.ready.append(child)
        self._deaths[link.index] = 0
        if not self._alive.done():
            self._alive.set_result(None)
        self._on_ready()

    def _child_ended(self, link: WorkerLink, number: int, exit: Exit) -> None:
        child = link.children.pop(number, None)
        if child is None:
            return
        if child in link.ready:
            link.ready.remove(child)
        if child.on_end is not None:
            child.on_end(exit)
        child.close()

    def _lost(self, link: WorkerLink) -> None:
        """Notify the owners of a dead worker's children, and start another worker in its place."""
        asyncio.get_running_loop().remove_reader(link.control.fileno())
        link.control.close()
        if self._closing:
            return
        self._metrics.restarts += 1
        deaths = self._deaths[link.index] = self._deaths.get(link.index, 0) + 1
        link.end()
        children = list(link.children.values())
        link.children.clear()
        link.ready.clear()
        for child in children:
            if child.on_end is not None:
                child.on_end(None)
            child.close()
        if deaths < _FAST_DEATHS:
            self._start_worker(link.index)  # last, since it needs descriptors that the children held
        elif not self.failed.done():
            self.failed.set_result(link.reason or "workers die as soon as they start")

    def take(self, reserved: Collection[int] = (), worker: int | None = None) -> Child | None:
        """Take a ready child of the worker with the most, or of the given one. None if all are busy or `reserved`."""
        links = [
            link
            for link in self._links.values()
            if link.ready and link.index not in reserved and worker in (None, link.index)
        ]
        return max(links, key=lambda link: len(link.ready)).ready.pop() if links else None

    def num_children(self) -> int:
        """Count the living children: ready, running and in sessions."""
        return sum(len(link.children) for link in self._links.values())

    def close(self) -> None:
        """End every worker and the zygote, and wait for them."""
        self._closing = True
        for timer in (self._beat_timer, self._reviving):
            if timer is not None:
                timer.cancel()
        loop = asyncio.get_running_loop()
        for link in self._links.values():
            if link.control.fileno() >= 0:
                loop.remove_reader(link.control.fileno())
                link.control.close()
            for child in link.children.values():
                child.kill()
                child.close()
            if link.pidfd >= 0:
                os.close(link.pidfd)
        self._links.clear()
        if self._zygote is not None and self._zygote_control is not None:
            self._zygote_control.close()
            try:
                self._zygote.wait(_STOP_S)  # it waits for its workers, and they for their children
            except subprocess.TimeoutExpired:
                self._zygote.kill()
                self._zygote.wait()
