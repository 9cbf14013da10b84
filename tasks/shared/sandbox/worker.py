"""A worker: keeps children ready, sees them end, tells the broker. It never sees a program or its output.

One thread, one poll loop over its control socket, the pidfds of its children and the channels of those that are not
ready yet. A child is handed to the broker when it says that it is confined, with its channel, so that the memory which
is forked holds no request but the child's. Messages to the broker: H(ello) with the worker's own pidfd, R(eady) with
channel and pidfd of a child, X (a child ended), A(live), F(ailed) with the reason. From the broker: P(romote) makes a
child a session, for which another is made ready; ? is answered by A; end of file ends all.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import NoReturn

from tasks.shared.sandbox import confinement, kernel, namespaces, runner
from tasks.shared.sandbox.compartments import Compartment, CompartmentPool
from tasks.shared.sandbox.threads import ThreadGate

HELLO, ALIVE, FAILED = b"H", b"A", b"F"
READY = struct.Struct("=cI")
EXITED = struct.Struct("=cIidQ")
"""X, child number, wait status, CPU seconds, peak resident bytes."""
PROMOTE = struct.Struct("=cI")
ARE_YOU_THERE = b"?"
_ATTEMPTS = 8
"""Children in a row that cannot be made, while no other lives, before the worker gives up."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker needs to know, and all it knows."""

    isolation: confinement.Isolation
    readable: tuple[str, ...]
    """Libraries that programs may read."""
    slots: int
    disk_mb: int
    warm_bytes: int
    """Data of the warm interpreter."""
    template: bytes
    """The seccomp filter, made once."""
    first_uid: int
    """First of the server's own users, for children of a worker with root's rights."""


@dataclass(slots=True)
class _Child:
    number: int
    pid: int
    pidfd: int
    compartment: Compartment
    channel: socket.socket | None
    """The broker's end of its channel, until it is handed over."""
    session: bool = False


class CannotConfine(Exception):
    """No child can be put under its isolation here; the message says what fails."""


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
        self,
        plan: WorkerSettings,
        index: int,
        scratch: tuple[str, ...],
        control: socket.socket,
        oom: OomScore,
    ) -> None:
        self._plan, self._control = plan, control
        self._compartments = CompartmentPool(
            plan.isolation, plan.readable, index, plan.disk_mb, scratch, plan.first_uid
        )
        self._children: dict[int, _Child] = {}  # by pidfd
        self._starting: dict[int, _Child] = {}  # by the descriptor of the channel
        self._poll = select.poll()
        self._oom = oom
        self._libraries = frozenset({*plan.readable, *map(os.path.realpath, plan.readable)})
        self._gate = ThreadGate() if plan.isolation.mode == "landlock" else None
        self._made = 0
        self._wanted = plan.slots
        self._failures = 0
        self._next_try = 0.0

    def run(self) -> NoReturn:
        """Serve until the broker goes away."""
        self._poll.register(self._control.fileno(), select.POLLIN)
        if self._gate is not None:
            self._poll.register(self._gate, select.POLLIN)
        own = os.pidfd_open(os.getpid())
        socket.send_fds(self._control, [HELLO], [own])
        os.close(own)
        while True:
            wait_ms = self._make_ready()
            for descriptor, _ in self._poll.poll(wait_ms):
                if descriptor == self._control.fileno():
                    self._obey()
                elif descriptor in self._children:
                    self._reap(descriptor)
                elif descriptor in self._starting:
                    self._hand_over(self._starting[descriptor])
                elif self._gate is not None and descriptor == self._gate.fileno():
                    self._gate.answer()
            if self._compartments.cleaning:
                self._compartments.clean()

    def _make_ready(self) -> int | None:
        """Make the children that are wanted. Returns for how many milliseconds there is nothing else to do."""
        while self._wanted and (not self._failures or time.monotonic() >= self._next_try):
            try:
                if not self._spawn():
                    break  # for want of a directory, until it is empty
            except OSError as error:
                self._failed(str(error))
        if self._compartments.cleaning:
            return 0
        return round(1000 * _LONGEST_PAUSE_S) if self._wanted else None

    def _obey(self) -> None:
        message = self._control.recv(64)
        if message == ARE_YOU_THERE:
            self._control.send(ALIVE)
            return
        if len(message) != PROMOTE.size:
            self._leave()
        _, number = PROMOTE.unpack(message)
        for child in self._children.values():
            if child.number == number:
                child.session = True
                self._wanted += 1
                return

    def _leave(self) -> NoReturn:
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)
        for child in self._children.values():
            os.waitpid(child.pid, 0)
            self._compartments.give_back(child.compartment)
        while self._compartments.cleaning:
            self._compartments.clean()
        os._exit(0)

    def _reap(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        _, status, usage = os.wait4(child.pid, 0)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        if child.channel is not None:
            self._not_ready(child, os.waitstatus_to_exitcode(status))
            return
        self._compartments.give_back(child.compartment)
        cpu_s = usage.ru_utime + usage.ru_stime
        self._control.send(EXITED.pack(b"X", child.number, status, cpu_s, usage.ru_maxrss * 1024))
        if not child.session:
            self._wanted += 1

    def _spawn(self) -> bool:
        """Fork a child that confines itself; False where there is no place for it yet. Raises OSError."""
        compartment = self._compartments.take()
        if compartment is None:
            return False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._oom.give_way()
        try:
            pid = os.fork()
        except OSError:
            self._compartments.give_back(compartment)
            raise
        finally:
            self._oom.stand()
        if pid == 0:
            self._become_child(compartment, theirs)
        theirs.close()
        self._wanted -= 1
        self._made += 1
        pidfd = os.pidfd_open(pid)
        child = _Child(self._made, pid, pidfd, compartment, ours)
        self._children[pidfd] = self._starting[ours.fileno()] = child
        self._poll.register(pidfd, select.POLLIN)
        self._poll.register(ours.fileno(), select.POLLIN)
        return True

    def _hand_over(self, child: _Child) -> None:
        """A child says that it is confined: the broker may use it. Whatever else it says, its end follows."""
        channel = child.channel
        assert channel is not None
        if channel.recv(len(runner.CONFINED), socket.MSG_PEEK) != runner.CONFINED:
            self._poll.unregister(channel.fileno())
            return
        channel.recv(len(runner.CONFINED))
        self._stop_waiting_for(child)
        socket.send_fds(self._control, [READY.pack(b"R", child.number)], [channel.fileno(), child.pidfd])
        channel.close()
        self._failures = 0

    def _stop_waiting_for(self, child: _Child) -> None:
        assert child.channel is not None
        descriptor = child.channel.fileno()
        del self._starting[descriptor]
        with contextlib.suppress(KeyError):
            self._poll.unregister(descriptor)
        child.channel = None

    def _not_ready(self, child: _Child, code: int) -> None:
        """A child ended before it was confined: this machine does not allow it, or somebody killed it."""
        channel = child.channel
        assert channel is not None
        self._stop_waiting_for(child)
        with channel:
            reason = channel.recv(4096).removeprefix(runner.CONFINED).decode("utf-8", "replace")
        self._compartments.give_back(child.compartment)
        self._wanted += 1
        self._failed(reason or f"a child ended before it was confined ({code})")

    def _failed(self, reason: str) -> None:
        """Wait before the next try, longer each time. Raises CannotConfine when nobody lives and nobody starts."""
        pause = min(_FIRST_PAUSE_S * 2**self._failures, _LONGEST_PAUSE_S)
        self._failures += 1
        self._next_try = time.monotonic() + pause
        if self._failures >= _ATTEMPTS and not self._children:
            raise CannotConfine(reason)

    def _become_child(self, compartment: Compartment, channel: socket.socket) -> NoReturn:
        plan = self._plan
        try:
            wire = confinement.confine(
                plan.isolation,
                channel.fileno(),
                compartment.ruleset,
                compartment.directory,
                compartment.uid,
                plan.template,
            )
            wire.send(runner.CONFINED)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the supervisor tells it, and no program runs
            for descriptor in (channel.fileno(), confinement.CHANNEL_FD):  # the first, as long as it is open
                with contextlib.suppress(OSError):
                    os.write(descriptor, f"a child cannot be confined: {error}".encode()[:4000])
                    break
            os._exit(runner.EXIT_ERROR)
        try:
            own_user = plan.isolation.mode == "namespaces"
            runner.serve(wire, runner.ChildContext(plan.warm_bytes, self._libraries, own_user))
        finally:
            os._exit(runner.EXIT_ERROR)


def main(plan: WorkerSettings, index: int, scratch: tuple[str, ...], control: socket.socket) -> NoReturn:
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
        reason = str(error) if isinstance(error, CannotConfine) else f"{type(error).__name__}: {error}"
        control.send(FAILED + reason.encode()[:4000])
        os._exit(1)
