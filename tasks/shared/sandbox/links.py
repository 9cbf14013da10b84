"""A worker and its children as the broker sees them: their descriptors, and operations on these."""

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

    @property
    def code(self) -> int:
        """The exit code as the runner defines it, or the negative number of the signal."""
        return os.waitstatus_to_exitcode(self.status)


@dataclass(eq=False, slots=True)
class Child:
    """A confined process that waits for a program, or runs one."""

    worker: WorkerLink
    number: int
    channel: socket.socket
    pidfd: int
    on_end: Callable[[Exit | None], None] | None = None
    """Called once, with its exit, or with None when its worker was lost."""

    def kill(self) -> None:
        """Kill it. A call of `on_end` follows."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the child has ended or was closed."""
        if self.pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def has_ended(self) -> bool:
        """Whether the process has ended (its descriptor is then readable)."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def promote(self) -> None:
        """Keep it for a session. The worker then makes another child in its place."""
        self.worker.send(PROMOTE.pack(b"P", self.number))

    def close(self) -> None:
        """Close the descriptors."""
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
    """The worker process, once it has said hello."""
    silent: int = 0
    """Health checks since its last message."""

    def send(self, message: bytes) -> None:
        """Send a message. The reader of the socket notices a dead worker, and the health check a silent one."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
            self.control.send(message)

    def end(self) -> None:
        """Kill the worker and its known children, and wait until they are gone."""
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
