"""A worker: keeps children ready, reports their ends to the broker. It never sees a program or its output.

One thread polls its control socket, the pidfds of its children, and the channels of children that are not ready yet.
Once a child reports that it is confined, the broker gets its channel, so that the worker's memory, which is forked,
never holds a request. Messages to the broker: H(ello) with the worker's pidfd, R(eady) with channel and pidfd of a
child, X (a child ended), A(live), F(ailed) with the reason. Messages from the broker: P(romote) turns a child into a
session and asks for another child; ? asks for A; end of file ends the worker.
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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from tasks.shared.sandbox import kernel, namespaces, runner
from tasks.shared.sandbox.compartments import CompartmentPool
from tasks.shared.sandbox.confinement import CHANNEL_FD, Compartment, WorkerSettings, confine
from tasks.shared.sandbox.threads import ThreadGate

HELLO, ALIVE, FAILED = b"H", b"A", b"F"
READY = struct.Struct("=cI")
EXITED = struct.Struct("=cIidQ")
"""X, child number, wait status, CPU seconds, peak resident bytes."""
PROMOTE = struct.Struct("=cI")
HEALTH_CHECK = b"?"
_ATTEMPTS = 8
"""Failed attempts in a row to make a child, while no other child lives, before the worker gives up."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5


@dataclass(slots=True)
class _Child:
    number: int
    pid: int
    pidfd: int
    compartment: Compartment
    channel: socket.socket | None
    """The broker's end of its channel, until the broker gets it."""
    session: bool = False


class CannotConfine(Exception):
    """No child can be put under its isolation here. The message says what fails."""


class OomScore:
    """The score that a fork inherits: what the kernel kills first without memory."""

    def __init__(self) -> None:
        try:
            self._descriptor = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
            self._own = os.read(self._descriptor, 16)
        except OSError:
            self._descriptor = -1

    @contextlib.contextmanager
    def highest(self) -> Iterator[None]:
        """Let the kernel kill first what is forked meanwhile. Does nothing if the score cannot be set."""
        if self._descriptor < 0:
            yield
            return
        os.pwrite(self._descriptor, b"1000", 0)
        try:
            yield
        finally:
            os.pwrite(self._descriptor, self._own, 0)


class Worker:
    """The supervisor loop of one worker process."""

    def __init__(self, settings: WorkerSettings, index: int, control: socket.socket, oom: OomScore) -> None:
        self._settings, self._control = settings, control
        self._compartments = CompartmentPool(settings, index)
        self._children: dict[int, _Child] = {}  # by pidfd
        self._starting: dict[int, _Child] = {}  # by the descriptor of the channel
        self._poll = select.poll()
        self._oom = oom
        self._libraries = frozenset({*settings.readable, *map(os.path.realpath, settings.readable)})
        self._gate = ThreadGate() if settings.isolation.mode == "landlock" else None
        self._num_made = 0
        self._num_missing = settings.sandbox.slots
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
                    self._read_control()
                elif descriptor in self._children:
                    self._reap(descriptor)
                elif descriptor in self._starting:
                    self._hand_over(self._starting[descriptor])
                elif self._gate is not None and descriptor == self._gate.fileno():
                    self._gate.answer()
            if self._compartments.cleaning:
                self._compartments.clean()

    def _make_ready(self) -> int | None:
        """Make the missing children. Returns for how many milliseconds to wait for messages."""
        while self._num_missing and (not self._failures or time.monotonic() >= self._next_try):
            try:
                if not self._spawn():
                    break  # until a used directory is empty
            except OSError as error:
                self._failed(str(error))
        if self._compartments.cleaning:
            return 0
        return round(1000 * _LONGEST_PAUSE_S) if self._num_missing else None

    def _read_control(self) -> None:
        message = self._control.recv(64)
        if message == HEALTH_CHECK:
            self._control.send(ALIVE)
            return
        if len(message) != PROMOTE.size:
            self._leave()
        _, number = PROMOTE.unpack(message)
        for child in self._children.values():
            if child.number == number:
                child.session = True
                self._num_missing += 1
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
            self._num_missing += 1

    def _spawn(self) -> bool:
        """Fork a child that confines itself. Returns False if there is no compartment for it yet. Raises OSError."""
        compartment = self._compartments.take()
        if compartment is None:
            return False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with self._oom.highest():
                pid = os.fork()
                if pid == 0:  # it never leaves this block: the score that it would restore is the worker's
                    self._become_child(compartment, theirs)
        except OSError:
            self._compartments.give_back(compartment)
            raise
        theirs.close()
        pidfd = os.pidfd_open(pid)
        self._num_missing -= 1
        self._num_made += 1
        child = _Child(self._num_made, pid, pidfd, compartment, ours)
        self._children[pidfd] = self._starting[ours.fileno()] = child
        self._poll.register(pidfd, select.POLLIN)
        self._poll.register(ours.fileno(), select.POLLIN)
        return True

    def _hand_over(self, child: _Child) -> None:
        """Give a child to the broker once it reports that it is confined. After any other message it ends."""
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
        """Note that a child ended before it was confined: this machine does not allow it, or somebody killed it."""
        channel = child.channel
        assert channel is not None
        self._stop_waiting_for(child)
        with channel:
            reason = channel.recv(4096).removeprefix(runner.CONFINED).decode("utf-8", "replace")
        self._compartments.give_back(child.compartment)
        self._num_missing += 1
        self._failed(reason or f"a child ended before it was confined ({code})")

    def _failed(self, reason: str) -> None:
        """Wait before the next attempt, longer each time. Raises CannotConfine when no child lives and none starts."""
        pause = min(_FIRST_PAUSE_S * 2 ** min(self._failures, 10), _LONGEST_PAUSE_S)
        self._failures += 1
        self._next_try = time.monotonic() + pause
        if self._failures >= _ATTEMPTS and not self._children:
            raise CannotConfine(reason)

    def _become_child(self, compartment: Compartment, channel: socket.socket) -> NoReturn:
        settings = self._settings
        try:
            wire = confine(settings, compartment, channel.fileno())
            wire.send(runner.CONFINED)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the worker reports it, and no program runs
            for descriptor in (channel.fileno(), CHANNEL_FD):  # the first, as long as it is open
                with contextlib.suppress(OSError):
                    os.write(descriptor, f"a child cannot be confined: {error}".encode()[:4000])
                    break
            os._exit(runner.EXIT_ERROR)
        try:
            own_user = settings.isolation.mode == "namespaces"
            runner.serve(wire, self._libraries, settings.warm_bytes, own_user)
        finally:
            os._exit(runner.EXIT_ERROR)


def main(settings: WorkerSettings, index: int, control: socket.socket) -> NoReturn:
    """Enter the worker's namespaces and serve. Called in a fresh fork of the zygote; never returns."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        oom = OomScore()
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if settings.isolation.mode == "namespaces":
            namespaces.enter(settings.isolation)
            inner = os.fork()
            if inner:
                # This process only waits for the first process of the namespaces, and ends with it.
                control.close()
                os.waitpid(inner, 0)
                os._exit(0)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            oom = OomScore()  # of this process, while /proc is visible
            namespaces.build_root(settings.readable)
        for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
            del sys.modules[name]  # so that programs cannot import the project
        Worker(settings, index, control, oom).run()
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the broker is gone
    except Exception as error:  # noqa: BLE001 - the end of this process: the broker must learn the cause, whatever it is
        reason = str(error) if isinstance(error, CannotConfine) else f"{type(error).__name__}: {error}"
        control.send(FAILED + reason.encode()[:4000])
        os._exit(1)
