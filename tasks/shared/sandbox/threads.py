"""Counts the threads of each program where no user of its own does so for RLIMIT_NPROC: in the container's stack.

The worker installs a filter over itself and its children that hands each `clone` of a thread to the worker, which reads
how many the process has and how many it may have. The kernel carries the second with the process, as a limit that it
has no other use for and that a program can only lower.
"""

from __future__ import annotations

import errno
import fcntl
import resource
import struct

from tasks.shared.sandbox import kernel, seccomp

_RLIMIT_LOCKS = 10
"""Bounds nothing since Linux 2.4.25; `/proc/PID/limits` shows it."""
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION = struct.Struct("=QII64x")
"""id, thread, flags; the call."""
_RESPONSE = struct.Struct("=QqiI")
_CONTINUE = 1


def limit_threads(threads: int, has_own_user: bool) -> None:
    """Limit the calling child: by the kernel, where it has a user of its own, else by its worker's gate."""
    which = resource.RLIMIT_NPROC if has_own_user else _RLIMIT_LOCKS
    resource.setrlimit(which, (threads, threads))


class ThreadGate:
    """Answers the children of one worker that want another thread. Raises OSError if the kernel has no such filter."""

    def __init__(self) -> None:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        self._descriptor = kernel.install_listener(seccomp.thread_filter())

    def fileno(self) -> int:
        """Readable when a child asks."""
        return self._descriptor

    def answer(self) -> None:
        """Let the oldest that asks have its thread, or not. One that has ended meanwhile gets no answer."""
        message = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._descriptor, _RECEIVE, message)
            number, thread, _ = _NOTIFICATION.unpack(message)
            if _threads_of(thread) < _most_threads_of(thread):
                response = _RESPONSE.pack(number, 0, 0, _CONTINUE)
            else:
                response = _RESPONSE.pack(number, 0, -errno.EAGAIN, 0)
            fcntl.ioctl(self._descriptor, _SEND, response)
        except (FileNotFoundError, ProcessLookupError):
            return


def _threads_of(thread: int) -> int:
    with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as status:
        return next((int(line.split()[1]) for line in status if line.startswith("Threads:")), 1)


def _most_threads_of(thread: int) -> int:
    with open(f"/proc/{thread}/limits", encoding="ascii") as limits:
        return next((int(line.split()[3]) for line in limits if line.startswith("Max file locks")), 0)
