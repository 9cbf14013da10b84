"""A child from the broker's side."""

import os
import socket
import subprocess

from tasks.shared.sandbox.links import Child, WorkerLink


def test_a_closed_child_ignores_signals() -> None:
    """A stopping server closes workers first; sessions that clients close afterwards have no process."""
    control, channel = socket.socketpair()
    with control, subprocess.Popen(["sleep", "60"]) as process:
        child = Child(WorkerLink(0, control), 0, channel, os.pidfd_open(process.pid), lambda _: None)
        child.close()
        child.kill()
        assert process.poll() is None
        process.kill()
