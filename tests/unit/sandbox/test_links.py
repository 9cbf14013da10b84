"""A child seen from the broker."""

import os
import socket
import subprocess

from tasks.shared.sandbox.links import Child, WorkerLink


def test_a_child_that_was_closed_takes_no_signal() -> None:
    """At the server's end workers are closed first; the sessions that clients then give up have nothing to end."""
    control, channel = socket.socketpair()
    with control, subprocess.Popen(["sleep", "60"]) as process:
        child = Child(WorkerLink(0, control), 0, channel, os.pidfd_open(process.pid), lambda _: None)
        child.close()
        child.kill()
        assert process.poll() is None
        process.kill()
