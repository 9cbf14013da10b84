"""Limits the threads of each program under landlock, where RLIMIT_NPROC cannot: programs there share one user.

The worker installs a filter over itself and its children. It passes each `clone` of a thread to the worker, which reads
how many threads the process has and how many it may have. The process carries the second number as a resource limit
that the kernel does not use otherwise, and that a program can only lower.
"""

from __future__ import annotations

import errno
import fcntl
import resource
import struct

from tasks.shared.sandbox import kernel, seccomp

_RLIMIT_LOCKS = 10
"""Has no effect since Linux 2.4.25; `/proc/PID/limits` shows it."""
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION = struct.Struct("=QII64x")
"""id, thread, flags; the call."""
_RESPONSE = struct.Struct("=QqiI")
_CONTINUE = 1


def limit_threads(threads: int, has_own_user: bool) -> None:
    """Limit the threads of the calling child: by the kernel if it has its own user, else by its worker's gate."""
    kind = resource.RLIMIT_NPROC if has_own_user else _RLIMIT_LOCKS
    resource.setrlimit(kind, (threads, threads))


class ThreadGate:
    """Allows or refuses new threads of one worker's children. Raises OSError if the kernel has no such filter."""

    def __init__(self) -> None:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        self._descriptor = kernel.install_filter(seccomp.thread_filter(), kernel.LISTENER)

    def fileno(self) -> int:
        """Readable when a child asks."""
        return self._descriptor

    def answer(self) -> None:
        """Answer the oldest request. A process that has ended meanwhile gets no answer."""
        message = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._descriptor, _RECEIVE, message)
            number, thread, _ = _NOTIFICATION.unpack(message)
            num_threads = _field(thread, "status", "Threads:", 1)
            limit = _field(thread, "limits", "Max file locks", 3)
            answer = (0, _CONTINUE) if num_threads < limit else (-errno.EAGAIN, 0)
            fcntl.ioctl(self._descriptor, _SEND, _RESPONSE.pack(number, 0, *answer))
        except (FileNotFoundError, ProcessLookupError):
            return


def _field(thread: int, file: str, start: str, column: int) -> int:
    """Return a number in a line of a file in `/proc`. Raises ProcessLookupError for a process that has ended."""
    with open(f"/proc/{thread}/{file}", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(start):
                return int(line.split()[column])
    raise ProcessLookupError(thread)
