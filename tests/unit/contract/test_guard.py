"""The guard: exit codes, and nothing of a stage left when it ends, is stopped, or loses its launcher."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasks.shared.contract.guarded import start_guarded
from tests.waiting import until

PROJECT = Path(__file__).parents[3]
GUARD = [sys.executable, "-m", "tasks.shared.contract.guard"]
# Writes its own pid and that of a child in a session of its own, then sleeps.
SPREADING = """
import os, signal, subprocess, sys, time
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
open(sys.argv[1] + ".tmp", "w").write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
time.sleep(0 if sys.argv[2] == "leave" else 600)
"""


def run_guard(code: str) -> int:
    """The guard's exit code for a Python program."""
    reader, writer = os.pipe()
    try:
        return subprocess.run(
            [*GUARD, str(reader), "1", "--", sys.executable, "-c", code], pass_fds=(reader,)
        ).returncode
    finally:
        os.close(reader)
        os.close(writer)


def has_ended(pid: int) -> bool:
    """True if the process has ended or is a zombie."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def start_spreading(tmp_path: Path, how: str) -> tuple[subprocess.Popen[bytes], int, Path]:
    """Start a guard over a program with a child in another session: process, lifeline, file of pids."""
    note = tmp_path / "pids"
    reader, writer = os.pipe()
    command = [*GUARD, str(reader), "1", "--", sys.executable, "-c", SPREADING, str(note), how]
    process = subprocess.Popen(command, pass_fds=(reader,), start_new_session=True)
    os.close(reader)
    until(note.exists)
    return process, writer, note


@pytest.mark.parametrize(
    ("code", "expected"),
    [("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_exit_codes_and_signals_are_passed_on(code: str, expected: int) -> None:
    assert run_guard(code) == expected


@pytest.mark.parametrize("how", ["plain", "stubborn"])
def test_closing_the_lifeline_ends_everything(tmp_path: Path, how: str) -> None:
    process, lifeline, note = start_spreading(tmp_path, how)
    pids = [int(pid) for pid in note.read_text().split()]
    os.close(lifeline)
    assert process.wait(timeout=60) == 128 + (signal.SIGKILL if how == "stubborn" else signal.SIGTERM)
    assert all(has_ended(pid) for pid in pids)


def test_leftovers_of_a_stage_are_killed(tmp_path: Path) -> None:
    process, lifeline, note = start_spreading(tmp_path, "leave")
    assert process.wait(timeout=60) == 0
    os.close(lifeline)
    assert all(has_ended(int(pid)) for pid in note.read_text().split())


def test_a_launcher_killed_by_sigkill_takes_the_stage_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    launcher = (
        "import os, subprocess, sys, time\n"
        "reader, writer = os.pipe()\n"
        f"command = {GUARD!r} + [str(reader), '1', '--', sys.executable, '-c', {SPREADING!r}, {str(note)!r}, 'plain']\n"
        "subprocess.Popen(command, pass_fds=(reader,), start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", launcher])
    until(note.exists)
    pids = [int(pid) for pid in note.read_text().split()]
    process.kill()
    process.wait()
    until(lambda: all(has_ended(pid) for pid in pids))


def test_a_guard_killed_by_sigkill_takes_the_stage_with_it(tmp_path: Path) -> None:
    process, lifeline, note = start_spreading(tmp_path, "plain")
    stage, child = (int(pid) for pid in note.read_text().split())
    process.kill()
    process.wait()
    until(lambda: has_ended(stage))
    os.close(lifeline)
    os.kill(child, signal.SIGKILL)  # only a running guard removes it


def test_leftovers_of_a_killed_guard_end(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    command = ["sh", "-c", f"sleep 600 & echo $! > {note}.tmp; mv {note}.tmp {note}; wait"]
    nothing = subprocess.DEVNULL
    guarded = start_guarded(command, env=os.environ, cwd=PROJECT, stdout=nothing, stderr=nothing)
    until(note.exists)
    child = int(note.read_text())
    assert not guarded.ended()
    guard = psutil.Process(psutil.Process(child).ppid()).parent()
    assert guard is not None
    guard.kill()
    until(guarded.ended)
    until(lambda: has_ended(child), "the leftover process still runs", timeout_s=60)
    assert guarded.wait().code == 137
    guarded.stop()
