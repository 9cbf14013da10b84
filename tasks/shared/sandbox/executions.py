"""A program on its way through the broker, a session, and what the broker asks of the child that runs them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from tasks.shared.sandbox import runner
from tasks.shared.sandbox.records import ExecutionResult, Limits
from tasks.shared.sandbox.workers import Child

_NOTICEABLE_S = 0.05
ProcessorTimes = tuple[float, float]
"""Seconds a process ran, and seconds it stood ready while others held the processors."""


@dataclass(eq=False, slots=True)
class Execution:
    """One program on its way."""

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
    before: ProcessorTimes = (0.0, 0.0)
    """The times of its child when it began: a session's child has lived before its block."""
    timer: asyncio.TimerHandle | None = None
    timed_out: bool = False


@dataclass(eq=False, slots=True)
class Session:
    """Variables that live on from block to block."""

    name: str
    child: Child | None = None
    waiting: deque[Execution] = field(default_factory=deque)
    running: Execution | None = None
    closed: bool = False
    lost: ExecutionResult | None = None
    """Its child ended between two blocks: what the next one is answered, in place of running without its variables."""


def send_request(child: Child, request: bytes, execution: Execution) -> None:
    """Hand the request, two memory files for output and one with the source to the child. Raises OSError."""
    source_fd = os.memfd_create("source")
    try:
        os.write(source_fd, execution.code)
        descriptors = [execution.stdout_fd, execution.stderr_fd, source_fd]
        socket.send_fds(child.channel, [request], descriptors)
    finally:
        os.close(source_fd)


def drop_output(descriptor: int) -> None:
    """Empty a memory file for good, whoever else still holds it, and close it."""
    with contextlib.suppress(PermissionError):  # sealed already: only a program that nothing isolates can
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def has_ended(pidfd: int) -> bool:
    """Whether the process is gone (its descriptor is then readable)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def processor_times(pidfd: int) -> ProcessorTimes | None:
    """The times of a process over its life; None on a kernel without these figures, or when it has just ended."""
    try:
        lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
        pid = dict(line.split(":\t") for line in lines)["Pid"]
        run_ns, wait_ns, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except (OSError, KeyError, ValueError):
        return None
    return int(run_ns) / 1e9, int(wait_ns) / 1e9


def own_time_s(pidfd: int, elapsed_s: float, before: ProcessorTimes) -> float:
    """The part of `elapsed_s` that the program is to answer for: what it would have taken on a free processor.

    Time it stood ready while others held the processors does not count. Where it stood so for long, its pauses
    are discounted alike, for they too are mostly waits for others then (locks whose holder is not running).
    `before`: the times of the process when `elapsed_s` began.
    """
    now = processor_times(pidfd)
    if now is None:
        return elapsed_s  # the wall clock alone counts
    run_s, wait_s = now[0] - before[0], now[1] - before[1]
    busy_s = run_s + wait_s
    share = run_s / busy_s if busy_s > _NOTICEABLE_S else 1.0
    return run_s + max(elapsed_s - busy_s, 0.0) * share


def last_report(child: Child) -> str:
    """The traceback that an ended child left in its channel."""
    try:
        return child.channel.recv(4 * runner.REPORT_CHARS).decode("utf-8", "replace")
    except (BlockingIOError, ConnectionResetError):
        return ""
