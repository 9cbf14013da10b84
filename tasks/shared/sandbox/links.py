"""A worker and its children as the broker holds them: descriptors, and what is done by them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tasks.shared.sandbox.worker import PROMOTE

_DYING_S = 2.0


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
        """Send a signal. To one that has ended by itself or was closed it does nothing."""
        if self.pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def promote(self) -> None:
        """Keep it as a session: the worker makes another child in its place."""
        self.worker.send(PROMOTE.pack(b"P", self.number))

    def close(self) -> None:
        """Let go of the descriptors."""
        self.channel.close()
        os.close(self.pidfd)
        self.pidfd = -1


@dataclass(eq=False, slots=True)
class WorkerLink:
    """One worker process, seen from the broker."""

    index: int
    control: socket.socket
    children: dict[int, Child] = field(default_factory=dict)
    ready: list[Child] = field(default_factory=list)
    reason: str = ""
    pidfd: int = -1
    """The worker itself, once it has said hello."""
    silent: int = 0
    """Questions whether it is there since its last message."""

    def send(self, message: bytes) -> None:
        """A message to the worker; its death is noticed by the reader of the same socket, its silence by the beat."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
            self.control.send(message)

    def end(self) -> None:
        """Kill the worker, if it still lives, and those of its children that are known; wait until they are gone."""
        dying = {child.pidfd for child in self.children.values()} | ({self.pidfd} - {-1})
        poll = select.poll()
        for pidfd in dying:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll.register(pidfd, select.POLLIN)
        deadline = time.monotonic() + _DYING_S
        while dying and time.monotonic() < deadline:
            for pidfd, _ in poll.poll(50):
                poll.unregister(pidfd)
                dying.discard(pidfd)
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
