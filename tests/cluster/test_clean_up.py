"""Processes of the tests of several machines end with their test, even if it is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
# A daemon that starts a process in its own session, which ignores SIGTERM.
DAEMON = "trap '' TERM; setsid sh -c \"trap '' TERM; exec sleep {long}\" & wait"
TEST = """
import os, signal, sys, time
from pathlib import Path
from tests.cluster.hosts import daemon
signal.signal(signal.SIGTERM, signal.default_int_handler)
with daemon(["sh", "-c", sys.argv[1]], dict(os.environ), Path(sys.argv[2]), user=sys.argv[3]):
    time.sleep(3600)
"""


@pytest.mark.parametrize("user", ["root", "postgres"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_their_test(number: signal.Signals, user: str, tmp_path: Path) -> None:
    long = f"77{os.getpid()}{number.value}{len(user)}"  # seconds; no other process has these arguments
    arguments = [sys.executable, "-c", TEST, DAEMON.format(long=long), str(tmp_path / "log"), user]
    test = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL)
    until(lambda: _sleepers(long) == 1)
    test.send_signal(number)
    test.wait()
    until(lambda: _sleepers(long) == 0, timeout_s=60)


def _sleepers(long: str) -> int:
    """How many processes sleep so long."""
    return sum(process.info["cmdline"] == ["sleep", long] for process in psutil.process_iter(["cmdline"]))
