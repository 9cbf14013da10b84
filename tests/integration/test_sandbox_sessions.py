"""Sessions under failure: lost children and workers, exhausted descriptors, programs that resist being stopped."""

# ruff: noqa: E501 - programs are kept whole
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.sandbox_soak import descendants
from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings, Status
from tests.waiting import until

SMALL = SandboxSettings(workers=1, slots=1, preload=("math",), limits=Limits(wall_s=30.0, cpu_s=30.0))


@pytest.fixture
def interpreter() -> Iterator[Interpreter]:
    with Interpreter(SMALL) as running:
        yield running


def state(pid: int) -> str:
    """State letter of a process, empty after its end."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def parent(pid: int) -> int:
    """The parent's process id."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def processor_time(pid: int) -> list[str]:
    """Ticks in user and kernel mode, all threads."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]


def child_of_session(interpreter: Interpreter) -> int:
    """The child of the only session: the one stopped process below the server."""
    stopped: list[int] = []

    def one_is_stopped() -> bool:
        stopped[:] = [pid for pid in descendants(interpreter.server_pid) if state(pid) == "T"]
        return len(stopped) == 1

    until(one_is_stopped, "the session was not stopped after its block")
    return stopped[0]


def test_worker_lost_between_blocks_is_a_sandbox_failure(interpreter: Interpreter) -> None:
    session = interpreter.open_session()
    assert interpreter.run("x = 1", session).status is Status.OK
    os.kill(descendants(interpreter.server_pid, depth=3)[2], signal.SIGKILL)
    until(lambda: interpreter.health()["restarts"] == 1, "the worker was not replaced")
    answer = interpreter.run("print(x)", session)
    assert (answer.status, "its variables" in answer.error_line) == (Status.SANDBOX_FAILURE, True), answer
    anew = interpreter.run("print('x' in globals())", session)
    assert (anew.status, anew.stdout) == (Status.OK, "False\n"), anew


def test_child_lost_between_blocks_is_reported_by_the_next_block(interpreter: Interpreter) -> None:
    session = interpreter.open_session()
    interpreter.run("x = 1", session)
    os.kill(child_of_session(interpreter), signal.SIGKILL)
    answer = interpreter.run("print('ran')", session)
    assert (answer.status, answer.stdout, answer.session_alive) == (Status.SANDBOX_FAILURE, "", False), answer
    assert "killed from outside, its variables with it" in answer.error_line
    assert interpreter.run("print('x' in globals())", session).stdout == "False\n"


def test_child_whose_end_is_not_yet_reported_is_lost(interpreter: Interpreter) -> None:
    """Its worker, which would reap it, is stopped while the next block is submitted."""
    session = interpreter.open_session()
    interpreter.run("x = 1", session)
    child = child_of_session(interpreter)
    worker = parent(child)
    os.kill(worker, signal.SIGSTOP)
    try:
        os.kill(child, signal.SIGKILL)
        until(lambda: state(child) == "Z", "the child did not end")
        block = interpreter.submit("print('ran')", session)
        time.sleep(0.5)  # the block is submitted; if it is late, this is the case of the test above
    finally:
        os.kill(worker, signal.SIGCONT)
    answer = block.result(120)
    assert (answer.status, answer.stdout, answer.session_alive) == (Status.SANDBOX_FAILURE, "", False), answer
    assert "killed from outside, its variables with it" in answer.error_line


LATE_END = """
import os, threading, time
def end():
    while "second" not in globals():
        time.sleep(0.01)
    os._exit(5)
threading.Thread(target=end).start()
"""


def test_session_that_exits_after_a_block_is_its_own_error(interpreter: Interpreter) -> None:
    """Its thread is stopped with the first block and ends the process during the second one."""
    session = interpreter.open_session()
    interpreter.run(LATE_END, session)
    answer = interpreter.run("second = True\ntime.sleep(20)", session)
    assert (answer.status, answer.session_alive) == (Status.ERROR, False), answer
    assert "variables are lost" in answer.error
    assert "exit code 5" in answer.error_line


def test_block_for_a_child_that_just_died_is_answered(interpreter: Interpreter) -> None:
    """The server reads the request before it reads that the child was reaped."""
    session = interpreter.open_session()
    interpreter.run("x = 1", session)
    child, server = child_of_session(interpreter), interpreter.server_pid
    os.kill(server, signal.SIGSTOP)
    try:
        block = interpreter.submit("print(x)", session)
        time.sleep(0.5)  # the request is sent; if it is late, this is the case of the test above
        os.kill(child, signal.SIGKILL)
        until(lambda: not state(child), "the child was not reaped")
    finally:
        os.kill(server, signal.SIGCONT)
    answer = block.result(120)
    assert (answer.status, answer.session_alive) == (Status.SANDBOX_FAILURE, False), answer
    assert "its variables with it" in answer.error
    assert interpreter.run("print(1)").stdout == "1\n"


CHANNEL = "import os, socket\nchannel = socket.socket(1, 5, 0, fileno=3)\n"
FEIGNED = {
    "closes its channel": f"{CHANNEL}channel.close()",
    "closes its channel and stays": f"{CHANNEL}channel.close()\nwhile True: pass",
    "shuts its channel": f"{CHANNEL}channel.shutdown(socket.SHUT_RD)",
    "shuts its channel and stays": f"{CHANNEL}channel.shutdown(socket.SHUT_RD)\nsocket.recv_fds = lambda *_: exec('while True: pass')",
    "writes into its channel": f"{CHANNEL}channel.send(b'x')\nwhile True: pass",
    "begins twice": f"{CHANNEL}channel.send(b'S')\nwhile True: pass",
    "lowers its processor limit": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
}


@pytest.mark.parametrize("name", FEIGNED)
def test_a_session_cannot_feign_an_outage(name: str, interpreter: Interpreter) -> None:
    session = interpreter.open_session()
    limits = Limits(wall_s=2.0, cpu_s=30.0)
    results = [interpreter.run(code, session, limits) for code in ("x = 1", FEIGNED[name], "print(x)")]
    assert Status.SANDBOX_FAILURE not in [result.status for result in results], results
    assert False in [result.session_alive for result in results], results
    assert interpreter.run("print('x' in globals())", session).stdout == "False\n"


MANY = """
import json
from tasks.shared.sandbox import Interpreter, SandboxSettings
from tasks.shared.sandbox.client import RequestRefused
with Interpreter(SandboxSettings(workers=1, slots=1, preload=("math",))) as interpreter:
    sessions, refused = [], ""
    while not refused and len(sessions) < 100:
        try:
            sessions.append(interpreter.open_session())
        except RequestRefused as error:
            refused = str(error)
    for number, session in enumerate(sessions):
        assert interpreter.run(f"x = {number}", session).status == "ok"
    kept = [interpreter.run("print(x)", session).stdout for session in sessions]
    print(json.dumps([len(sessions), refused, kept, interpreter.health()]))
"""


def many_sessions(limits: str) -> tuple[int, str, list[str], dict[str, int]]:
    """Open up to 100 sessions under a shell's limits: their number, the refusal, an output, the health."""
    command = ["sh", "-c", f'{limits} && exec "$0" -c "$1"', sys.executable, MANY]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    number, refused, kept, health = json.loads(ran.stdout)
    return number, refused, kept, health


def test_open_files_bound_the_sessions() -> None:
    number, refused, kept, health = many_sessions("ulimit -n 128")
    assert 20 <= number < 64, "two descriptors each"
    assert "close some" in refused
    assert kept == [f"{place}\n" for place in range(number)]
    assert (health["restarts"], health["max_sessions"]) == (0, number)


def test_soft_limit_of_open_files_is_raised() -> None:
    number, _, kept, health = many_sessions("ulimit -Sn 128 && ulimit -Hn 4096")
    assert (number, health["max_sessions"]) == (100, 1024)
    assert kept == [f"{place}\n" for place in range(number)]


def test_soft_limit_of_processor_time_is_raised() -> None:
    burn = "import time\nwhile time.process_time() < 1.5: pass\nprint('well')"
    code = "from tasks.shared.sandbox import Interpreter, SandboxSettings\n"
    code += "with Interpreter(SandboxSettings(workers=1, slots=1, preload=('math',))) as interpreter:\n"
    code += f"    print(interpreter.run({burn!r}).stdout)"
    command = ["sh", "-c", 'ulimit -St 1 && exec "$0" -c "$1"', sys.executable, code]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ran.stdout == "well\n\n", ran


HOARD = """
import os
kept = globals().get("kept", [])
for number in (1, 2):
    kept.append(os.dup(number))
    for _ in range(4):
        os.write(kept[-1], bytes(1 << 20))
"""


def test_output_kept_open_by_a_session_is_emptied_and_bounded(interpreter: Interpreter) -> None:
    session = interpreter.open_session()
    for _ in range(3):
        assert interpreter.run(HOARD, session).status is Status.OUTPUT_CUT
    look = interpreter.run("print([os.fstat(number).st_blocks for number in kept])", session)
    assert look.stdout == f"{[0] * 6}\n", look
    grow = "try:\n    os.pwrite(kept[0], b'x', 0)\n    print('grew')\nexcept OSError:\n    print('held')"
    assert interpreter.run(grow, session).stdout == "held\n"
    refused = interpreter.run("import fcntl\nfcntl.fcntl(1, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)", session)
    assert refused.status is Status.FORBIDDEN, refused


def score(pid: int) -> int:
    """The kernel's score for killing a process when memory runs out."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_children_go_first_when_memory_runs_out(interpreter: Interpreter) -> None:
    session = interpreter.open_session()
    interpreter.run("x = 1", session)
    child, server = child_of_session(interpreter), interpreter.server_pid
    line = [child]
    while line[-1] != server:
        line.append(parent(line[-1]))
    assert score(child) == 1000
    until(lambda: max(map(score, line[1:])) < 1000, "a worker stayed as it is only while it forks")


def test_program_killed_before_it_starts_has_printed_nothing(interpreter: Interpreter) -> None:
    for _ in range(30):
        result = interpreter.run("MARK = 1", limits=Limits(wall_s=0.0002, cpu_s=5.0))
        assert result.stdout == "", result


RUN_ON = """
import ctypes, os, signal, threading, time
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(18, lambda *_: None)
event, timer = (ctypes.c_int * 16)(0, 0, 18, 0), ctypes.c_void_p()
if libc.syscall(222, 1, event, ctypes.byref(timer)) == 0:
    libc.syscall(223, timer, 0, (ctypes.c_long * 4)(0, 10**7, 0, 10**7), None)
def wake():
    while libc.kill(os.getpid(), 18) == 0:
        pass
def spin():
    while True:
        time.thread_time()
for body in (wake, wake, spin):
    threading.Thread(target=body, daemon=True).start()
"""


def test_session_cannot_run_on_between_its_blocks(interpreter: Interpreter) -> None:
    session = interpreter.open_session()
    assert interpreter.run(RUN_ON, session).status is Status.OK
    child = child_of_session(interpreter)
    threads = [int(name) for name in os.listdir(f"/proc/{child}/task")]
    until(lambda: all(state(thread) == "T" for thread in threads), "not all threads were stopped")
    before = processor_time(child)
    time.sleep(0.3)
    assert (processor_time(child), state(child)) == (before, "T")


def test_queued_block_is_closed_with_its_session(interpreter: Interpreter) -> None:
    busy = interpreter.submit("import time\nwhile True:\n    time.sleep(1)", limits=Limits(wall_s=5.0))
    until(lambda: interpreter.health()["running"] == 1, "nothing runs")
    session = interpreter.open_session()
    blocks = [interpreter.submit("x = 1", session) for _ in range(2)]
    until(lambda: interpreter.health()["queue_length"] == 1, "nothing waits")
    interpreter.close_session(session)
    for block in blocks:
        assert "closed before it ran" in block.result(120).error_line
    assert busy.result().status is Status.TIMEOUT
    assert interpreter.run("print(1)").stdout == "1\n"
    until(lambda: interpreter.health()["children"] == 1, "a child is left")
