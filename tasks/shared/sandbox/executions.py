"""A program on its way through the broker, a session, and what the broker reads of the child that runs them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from tasks.shared.sandbox import runner
from tasks.shared.sandbox.links import Child
from tasks.shared.sandbox.records import ExecutionResult, Limits

_TICKS = os.sysconf("SC_CLK_TCK")
_NUM_CPUS = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class ProcessorTimes:
    """Processor times of a process over its life."""

    run_s: float = 0.0
    """Seconds that all its threads ran, including ended ones."""
    threads: dict[int, tuple[float, float]] = field(default_factory=dict)
    """For each living thread: seconds it ran, and seconds it waited while others held the processors."""


@dataclass(eq=False, slots=True)
class Execution:
    """A program, or a block of a session, on its way through the broker."""

    code: bytes
    limits: Limits
    future: asyncio.Future[ExecutionResult]
    session: Session | None = None
    enqueued: float = field(default_factory=time.monotonic)
    started: float = 0.0
    attempts: int = 0
    child: Child | None = None
    stdout_fd: int = -1
    stderr_fd: int = -1
    before: ProcessorTimes = field(default_factory=ProcessorTimes)
    """Times of its child when it began, since the child of a session has run blocks before."""
    timer: asyncio.TimerHandle | None = None
    timed_out: bool = False
    begun: bool = False
    """The child has reported that the program begins. What happens from then on is the program's own doing."""
    failure: str = ""
    """Why the broker could not hand it over, or empty."""
    alone: int | None = None
    """The worker on which it runs alone, after a worker was lost under it."""
    probe_of: Execution | None = None
    """For an empty program that tests whether a worker can be kept: the suspected program."""

    def send(self, child: Child) -> None:
        """Send the request, two memory files for output and one with the source to the child. Raises OSError."""
        limits = self.limits
        request = runner.REQUEST.pack(
            limits.memory_mb << 20,
            limits.open_files,
            limits.processes,
            limits.disk_mb << 20,
            len(self.code),
            self.session is not None,
        )
        self.stdout_fd = os.memfd_create("stdout", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.stderr_fd = os.memfd_create("stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        source_fd = os.memfd_create("source")
        try:
            os.write(source_fd, self.code)
            socket.send_fds(child.channel, [request], [self.stdout_fd, self.stderr_fd, source_fd])
        finally:
            os.close(source_fd)

    def drop_output(self) -> None:
        """Empty the memory files for good, even if a session holds them, and close them."""
        for descriptor in {self.stdout_fd, self.stderr_fd} - {-1}:
            with contextlib.suppress(OSError):  # sealed already, as only a program without isolation can do
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
                os.ftruncate(descriptor, 0)
            os.close(descriptor)
        self.stdout_fd = self.stderr_fd = -1

    def last_report(self) -> str:
        """Read what an ended child left in its channel: the traceback, or why the program could not begin."""
        assert self.child is not None
        try:
            report = self.child.channel.recv(4 * runner.REPORT_CHARS)
            if report == runner.STARTED and not self.begun:
                self.begun = True
                report = self.child.channel.recv(4 * runner.REPORT_CHARS)
        except (BlockingIOError, ConnectionResetError):
            return ""
        return report.decode("utf-8", "replace")

    def time_left_s(self, elapsed_s: float) -> float:
        """Return how long it surely stays below its limits, even if it runs on as many processors as it can.

        Where `/proc` hides the figures of the process, all time counts as if it had run.
        """
        assert self.child is not None
        now = processor_times(self.child.pidfd)
        if now is None:
            return min(self.limits.wall_s, self.limits.cpu_s) - elapsed_s
        cpu_left_s = self.limits.cpu_s - (now.run_s - self.before.run_s)
        return min(self.limits.wall_s - own_time_s(elapsed_s, self.before, now), cpu_left_s / self.parallel)

    @property
    def parallel(self) -> int:
        """How many processors it can use at once."""
        return min(self.limits.processes, _NUM_CPUS)


@dataclass(eq=False, slots=True)
class Session:
    """Variables that live on from block to block."""

    child: Child | None = None
    waiting: deque[Execution] = field(default_factory=deque)
    running: Execution | None = None
    num_blocks: int = 0
    """Blocks that its child has completed."""
    closed: bool = False
    lost: ExecutionResult | None = None
    """Set when its child ended between two blocks: the result of the next block, which does not run."""


def processor_times(pidfd: int) -> ProcessorTimes | None:
    """Return the times of a process; None when it has just ended. Some kernels have no figures of threads."""
    try:
        lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
        process = Path("/proc", dict(line.split(":\t") for line in lines)["Pid"])
        ticks = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
        names = os.listdir(process / "task")
    except (OSError, KeyError, ValueError):
        return None
    threads = {}
    for name in names:
        with contextlib.suppress(OSError, ValueError):  # a thread that has just ended
            run_ns, wait_ns, _ = (process / "task" / name / "schedstat").read_text().split()
            threads[int(name)] = int(run_ns) / 1e9, int(wait_ns) / 1e9
    return ProcessorTimes(sum(map(int, ticks)) / _TICKS, threads)


def own_time_s(elapsed_s: float, before: ProcessorTimes, now: ProcessorTimes) -> float:
    """Return how much of `elapsed_s` the program would have taken on free processors.

    This leaves out the longest time that one of its threads waited while other programs held the processors. Time in
    which the program's own threads ran is not such waiting. A pause counts in full. `before` and `now` have the times
    of the process when `elapsed_s` began and ended.
    """
    waited_s = 0.0
    for thread, (run_s, wait_s) in now.threads.items():
        run_before_s, wait_before_s = before.threads.get(thread, (0.0, 0.0))
        siblings_s = max(now.run_s - before.run_s - (run_s - run_before_s), 0.0)
        waited_s = max(waited_s, wait_s - wait_before_s - siblings_s)
    return max(elapsed_s - waited_s, 0.0)
