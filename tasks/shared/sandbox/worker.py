"""A worker: keeps children ready, sees them end, tells the broker. It never sees a program or its output.

One thread, one poll loop over its control socket and the pidfds of its children. A child's channel goes
to the broker the moment it is made, so that the memory which is forked holds no request but the child's.
Messages to the broker: R(eady) with channel and pidfd, X (a child ended), F(ailed) with the reason.
From the broker: P(romote) makes a child a session, for which another is made ready; end of file ends all.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from typing import NoReturn

from tasks.shared.sandbox import confinement, kernel, namespaces, runner
from tasks.shared.sandbox.cells import Cell, CellPool

READY = struct.Struct("=cI")
EXITED = struct.Struct("=cIidQ")
"""X, child number, wait status, CPU seconds, peak resident bytes."""
PROMOTE = struct.Struct("=cI")
_FORK_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker needs to know, and all it knows."""

    isolation: confinement.Isolation
    readable: tuple[str, ...]
    """Libraries that programs may read."""
    slots: int
    disk_mb: int
    warm_bytes: int
    """Address space of the warm interpreter."""
    template: bytes
    """The seccomp filter, made once."""
    first_uid: int
    """First of the server's own users, for children of a worker with root's rights."""


@dataclass(slots=True)
class _Child:
    number: int
    pid: int
    pidfd: int
    cell: Cell
    session: bool = False


class OomScore:
    """What a fork inherits of: who is the first to go when memory runs out. Does nothing where it cannot be set."""

    def __init__(self) -> None:
        try:
            self._descriptor = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
            self._own = os.read(self._descriptor, 16)
        except OSError:
            self._descriptor = -1

    def give_way(self) -> None:
        """Children forked from now on go before everything else."""
        if self._descriptor >= 0:
            os.pwrite(self._descriptor, b"1000", 0)

    def stand(self) -> None:
        """Back to what it was."""
        if self._descriptor >= 0:
            os.pwrite(self._descriptor, self._own, 0)


class Worker:
    """The supervisor loop of one worker process."""

    def __init__(
        self, plan: Plan, index: int, scratch: tuple[str, ...], control: socket.socket, oom: OomScore
    ) -> None:
        self._plan, self._control = plan, control
        self._cells = CellPool(plan.isolation, plan.readable, index, plan.disk_mb, scratch, plan.first_uid)
        self._children: dict[int, _Child] = {}
        self._poll = select.poll()
        self._oom = oom
        self._made = 0

    def run(self) -> NoReturn:
        """Serve until the broker goes away."""
        self._poll.register(self._control.fileno(), select.POLLIN)
        for _ in range(self._plan.slots):
            self._spawn()
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._control.fileno():
                    self._obey()
                else:
                    self._reap(descriptor)

    def _obey(self) -> None:
        message = self._control.recv(64)
        if len(message) != PROMOTE.size:
            self._leave()
        _, number = PROMOTE.unpack(message)
        for child in self._children.values():
            if child.number == number:
                child.session = True
                self._spawn()
                return

    def _leave(self) -> NoReturn:
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)
        for child in self._children.values():
            os.waitpid(child.pid, 0)
            self._cells.give_back(child.cell)
        os._exit(0)

    def _reap(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        _, status, usage = os.wait4(child.pid, 0)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        self._cells.give_back(child.cell)
        cpu_s = usage.ru_utime + usage.ru_stime
        self._control.send(EXITED.pack(b"X", child.number, status, cpu_s, usage.ru_maxrss * 1024))
        if not child.session:
            self._spawn()

    def _spawn(self) -> None:
        """Fork a child, confine it, and hand its channel to the broker."""
        cell = self._cells.take()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._oom.give_way()
        pid = self._fork()
        if pid == 0:
            self._become_child(cell, theirs)
        self._oom.stand()
        theirs.close()
        pidfd = os.pidfd_open(pid)
        self._made += 1
        child = _Child(self._made, pid, pidfd, cell)
        self._children[pidfd] = child
        self._poll.register(pidfd, select.POLLIN)
        socket.send_fds(self._control, [READY.pack(b"R", child.number)], [ours.fileno(), pidfd])
        ours.close()

    def _fork(self) -> int:
        """Fork, trying again for a while where the machine is short of processes or memory."""
        for attempt in range(_FORK_ATTEMPTS):
            try:
                return os.fork()
            except OSError:
                if attempt == _FORK_ATTEMPTS - 1:
                    raise
                select.select([], [], [], 0.05)
        raise AssertionError("unreachable")

    def _become_child(self, cell: Cell, channel: socket.socket) -> NoReturn:
        plan = self._plan
        try:
            wire = confinement.confine(
                plan.isolation, channel.fileno(), cell.ruleset, cell.directory, cell.uid, plan.template
            )
            runner.serve(wire, plan.warm_bytes)
        finally:
            os._exit(runner.EXIT_ERROR)


def main(plan: Plan, index: int, scratch: tuple[str, ...], control: socket.socket) -> NoReturn:
    """Enter the worker's namespaces and serve. Called in a fresh fork of the zygote; never returns."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        oom = OomScore()
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if plan.isolation.mode == "namespaces":
            namespaces.enter(plan.isolation)
            inner = os.fork()
            if inner:
                # This process only keeps the namespaces' first process company, and ends with it.
                control.close()
                os.waitpid(inner, 0)
                os._exit(0)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            oom = OomScore()  # of this process, while /proc is in view
            namespaces.build_root(plan.readable)
        for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
            del sys.modules[name]  # so that programs do not find the project importable
        Worker(plan, index, scratch, control, oom).run()
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the broker is gone
    except Exception as error:  # noqa: BLE001 - last line of this process: the broker must learn why, whatever it was
        control.send(b"F" + f"{type(error).__name__}: {error}".encode()[:4000])
        os._exit(1)
