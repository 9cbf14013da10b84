"""Programs in a real server: statuses, output, limits, sessions, outages."""

# ruff: noqa: E501 - programs are kept whole
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks.sandbox_soak import descendants
from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings, SandboxUnavailable, Status
from tasks.shared.sandbox.client import RequestRefused
from tasks.shared.sandbox.protocol import MAX_CODE_BYTES
from tasks.shared.traces.observation import observe
from tests.waiting import until

quick_to_start = partial(SandboxSettings, workers=1, preload=("math",))
QUICK = Limits(wall_s=0.5, cpu_s=1.0, memory_mb=128)


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter(SandboxSettings()) as running:
        yield running


EXACT = {
    "indented print at the end": ("for n in range(3):\n    if n == 2:\n        print(n)", "2\n"),
    "assignment at the end": ("print(1)\nx = 2", "1\n"),
    "expression at the end prints nothing": ("1 + 1", ""),
    "main guard": ("if __name__ == '__main__':\n    print('main')", "main\n"),
    "print without newline": ("print('a', end='')", "a"),
    "exit with 0": ("print(1)\nimport sys\nsys.exit(0)\nprint(2)", "1\n"),
    "exit handler": ("import atexit\natexit.register(print, 'bye')\nprint('work')", "work\nbye\n"),
    "thread that outlives the main one": (
        "import threading, time\ndef f():\n    time.sleep(0.05)\n    print('late')\nthreading.Thread(target=f).start()",
        "late\n",
    ),
    "class and dataclass": ("import dataclasses as d\n@d.dataclass\nclass A:\n    x: int\nprint(A(1))", "A(x=1)\n"),
    "pickle of own class": ("import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))).__name__)", "A\n"),
    "unicode": ("print('π≈3')", "π≈3\n"),
    "own file imported": ("open('mine.py', 'w').write('x = 5')\nimport mine\nprint(mine.x)", "5\n"),
    "asyncio": ("import asyncio\nasync def f(): return 7\nprint(asyncio.run(f()))", "7\n"),
    "temporary file": ("import tempfile\nwith tempfile.TemporaryFile() as f: print(f.write(b'abc'))", "3\n"),
    "closed standard input": ("try: input()\nexcept EOFError: print('end')", "end\n"),
    "alarm": ("import signal\nsignal.signal(14, lambda *a: print('rang'))\nsignal.setitimer(0, 0.01)\nsignal.pause()", "rang\n"),
    "own database": ("import sqlite3\nd = sqlite3.connect('own.db')\nd.execute('create table t(x)')\nd.execute('insert into t values (7)')\nd.commit()\nprint(d.execute('select x from t').fetchall())", "[(7,)]\n"),
    "future import": ("from __future__ import annotations\ndef f(x: Nowhere): pass\nprint(f.__annotations__)", "{'x': 'Nowhere'}\n"),
    "standard library not yet imported": ("import sqlite3, bz2, csv, html\nprint(html.escape('<'))", "&lt;\n"),
    "standard output to a file, closed": ("import sys\nprint('a')\nsys.stdout = open('x', 'w')\nprint('b')\nsys.stdout.close()", "a\n"),
    "standard output put away": ("import sys\nprint('a')\nsys.stdout = None\nprint('b')", "a\n"),
    "standard output in a buffer of its own": ("import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')\nprint('π')", "π\n"),
    "deep recursion": ("import sys\nsys.setrecursionlimit(20000)\nf = lambda n: n and 1 + f(n - 1)\nprint(f(9000))", "9000\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_code_runs_exactly_as_written(name: str, interpreter: Interpreter) -> None:
    code, expected = EXACT[name]
    result = interpreter.run(code)
    assert (result.status, result.stdout, result.error) == (Status.OK, expected, ""), result


def test_error_has_the_programs_own_traceback(interpreter: Interpreter) -> None:
    result = interpreter.run("def f(x):\n    return 1 / x\nprint('before')\nf(0)")
    assert result.status is Status.ERROR
    assert result.stdout == "before\n"
    assert result.error_line == "ZeroDivisionError: division by zero"
    assert result.error.startswith(
        'Traceback (most recent call last):\n  File "main.py", line 4, in <module>\n    f(0)\n'
    )
    assert "runner" not in result.error


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit('enough')", "SystemExit: enough"),
        ("import os\nos._exit(5)", "RuntimeError: the program ended without a traceback (exit code 5)"),
        ("import os\nos.abort()", "RuntimeError: the program ended without a traceback (SIGABRT)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import torch", "ModuleNotFoundError: No module named 'torch'"),
        ("x = 'a\\0b'\n\0", "SyntaxError: source code string cannot contain null bytes"),
    ],
)
def test_last_line_of_an_error(code: str, line: str, interpreter: Interpreter) -> None:
    result = interpreter.run(code)
    assert (result.status, result.error_line) == (Status.ERROR, line), result


def test_time_out_keeps_what_was_printed(interpreter: Interpreter) -> None:
    result = interpreter.run("print('kept', end='')\nwhile True: pass", limits=QUICK)
    assert (result.status, result.stdout) == (Status.TIMEOUT, "kept")
    assert result.error_line == "TimeoutError: the program ran longer than 0.5 s"
    assert 0.5 <= result.seconds < 8.0


def test_processor_time_is_limited_apart_from_wall_time(interpreter: Interpreter) -> None:
    result = interpreter.run("while True: pass", limits=Limits(wall_s=30.0, cpu_s=1.0))
    assert result.status is Status.TIMEOUT
    assert result.seconds < 20.0


def test_memory_is_limited_and_can_be_handled(interpreter: Interpreter) -> None:
    result = interpreter.run("x = [0] * 10**9", limits=QUICK)
    assert result.status is Status.OUT_OF_MEMORY
    assert "MemoryError" in result.error_line
    handled = interpreter.run(
        "try:\n    x = [0] * 10**9\nexcept MemoryError:\n    print('less')", limits=QUICK
    )
    assert (handled.status, handled.stdout) == (Status.OK, "less\n")
    used = interpreter.run("x = b'1' * (100 << 20)")
    assert used.status is Status.OK
    assert 100 < used.peak_memory_mb < 300


def test_output_is_cut_in_the_middle(interpreter: Interpreter) -> None:
    result = interpreter.run(
        "print('start')\nprint('m' * 100000)\nprint('end')", limits=Limits(output_chars=200)
    )
    assert result.status is Status.OUTPUT_CUT
    assert result.stdout.startswith("start\nm")
    assert result.stdout.endswith("m\nend\n")
    assert "output cut: 99861 characters left out" in result.stdout
    assert len(result.stdout) <= 200
    assert result.error == ""
    exact = interpreter.run("print('x' * 199)", limits=Limits(output_chars=200))
    assert (exact.status, len(exact.stdout)) == (Status.OK, 200)


def test_what_the_model_is_shown_is_bounded_with_its_error(interpreter: Interpreter) -> None:
    result = interpreter.run(
        'print(1)\nraise ValueError("x" * 20000 + "end")', limits=Limits(output_chars=400)
    )
    shown = observe(result, "full")
    assert len(shown) <= 400
    assert shown.startswith("1\nTraceback")
    assert "characters left out" in shown
    assert shown.endswith("xend")


def test_tracebacks_do_not_name_where_libraries_are_kept(interpreter: Interpreter) -> None:
    result = interpreter.run(
        "open('mine.py', 'w').write('import json, sympy\\ndef f(): sympy.sympify(json.loads(\"[\"))')\n"
        "import mine, traceback\ntry:\n    mine.f()\nexcept ValueError:\n    print(traceback.format_exc())\nmine.f()"
    )
    for text in (result.stdout, result.error):
        assert '  File "mine.py", line 2, in f\n' in text
        assert '  File "json/decoder.py", line' in text
        assert 'File "/' not in text


def test_standard_error_is_kept_apart(interpreter: Interpreter) -> None:
    result = interpreter.run("import sys, warnings\nwarnings.warn('careful')\nprint('out')")
    assert (result.status, result.stdout, result.error) == (Status.OK, "out\n", "")
    assert "UserWarning: careful" in result.stderr


def test_refused_request_has_its_own_status(interpreter: Interpreter) -> None:
    result = interpreter.run("import socket\nsocket.socket()")
    assert result.status is Status.FORBIDDEN
    assert result.error_line.startswith("PermissionError")


def test_same_program_same_output(interpreter: Interpreter) -> None:
    """Hash seed and random states are fixed, so a recorded output can be checked later."""
    code = (
        "import random, numpy\nprint({'a', 'b', 'c', 'd'}, hash('x'), random.random(), numpy.random.rand())"
    )
    outputs = {interpreter.run(code).stdout for _ in range(5)}
    with Interpreter(SandboxSettings(workers=1)) as other:
        outputs.add(other.run(code).stdout)
    assert len(outputs) == 1


def test_many_programs_at_once_keep_their_own_results(interpreter: Interpreter) -> None:
    futures = [interpreter.submit(f"print({number})") for number in range(200)]
    assert [future.result().stdout for future in futures] == [f"{number}\n" for number in range(200)]


def test_session_keeps_variables_over_blocks_and_errors(interpreter: Interpreter) -> None:
    session = interpreter.open_session()
    assert interpreter.run("x = 20\ndef f(): return x + 1", session).session_alive is True
    failed = interpreter.run("x = 30\nundefined", session)
    assert (failed.status, failed.session_alive) == (Status.ERROR, True)
    assert 'File "block_2.py", line 2' in failed.error
    third = interpreter.run("print(f())", session)
    assert (third.stdout, third.peak_memory_mb > 10) == ("31\n", True)
    interpreter.close_session(session)
    with pytest.raises(RequestRefused, match="no such session"):
        interpreter.run("print(x)", session)


def test_program_that_is_too_long_is_the_models_error(interpreter: Interpreter) -> None:
    told = interpreter.run("x = 1" + " " * MAX_CODE_BYTES)
    assert (told.status, told.stdout) == (Status.ERROR, "")
    assert told.error_line == "SyntaxError: a program of 1048581 bytes; at most 1048576 are run"


def test_session_that_dies_says_so_and_starts_anew(interpreter: Interpreter) -> None:
    session, other = interpreter.open_session(), interpreter.open_session()
    for name in (session, other):
        interpreter.run("x = 1", name)
    dead = interpreter.run("print('last')\nwhile True: pass", session, QUICK)
    assert (dead.status, dead.stdout, dead.session_alive) == (Status.TIMEOUT, "last\n", False)
    assert "The session ended with this block" in dead.error
    assert interpreter.run("print(x)", session).error_line == "NameError: name 'x' is not defined"
    assert interpreter.run("print(x)", other).stdout == "1\n"
    for name in (session, other):
        interpreter.close_session(name)


def test_blocks_of_a_session_run_in_order_beside_other_sessions(interpreter: Interpreter) -> None:
    sessions = [interpreter.open_session() for _ in range(40)]
    futures = []
    for number, session in enumerate(sessions):
        interpreter.submit(f"seen = [{number}]", session)
        interpreter.submit("seen.append('second')", session)
        futures.append(interpreter.submit("print(seen)", session))
    assert [future.result().stdout for future in futures] == [f"[{n}, 'second']\n" for n in range(40)]
    assert interpreter.health()["sessions"] == 40
    for session in sessions:
        interpreter.close_session(session)


THREADS = """
import threading, time
threads = 0
try:
    while threads < 20:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        threads += 1
except RuntimeError:
    pass
print(threads, flush=True)
time.sleep({seconds})
"""


def test_threads_of_a_program_of_another_server_do_not_count() -> None:
    settings = quick_to_start(slots=1, limits=Limits(wall_s=120.0, cpu_s=20.0))
    with Interpreter(settings) as one, Interpreter(settings) as other:
        bomb = one.submit(THREADS.format(seconds=2))
        until_running(one)
        beside = other.run(THREADS.format(seconds=0))
        assert (beside.status, beside.stdout) == (Status.OK, "7\n"), beside
        assert bomb.result().stdout == "7\n"


def test_health_counts_what_happened(interpreter: Interpreter) -> None:
    before = interpreter.health()
    interpreter.run("print(1)")
    interpreter.run("1 / 0")
    after = interpreter.health()
    assert after["executions"] - before["executions"] == 2
    assert after["statuses"]["error"] - before["statuses"]["error"] == 1
    assert after["isolation"] == "namespaces"
    assert after["unsafe"] is False
    assert after["execution_p99_ms"] >= after["execution_p50_ms"] > 0


def test_health_can_be_read_after_the_end() -> None:
    with Interpreter(quick_to_start()) as short:
        short.run("print(1)")
    assert short.health()["executions"] == 1
    with pytest.raises(RuntimeError, match="closed"):
        short.submit("print(1)")


def until_running(interpreter: Interpreter) -> None:
    until(lambda: interpreter.health()["running"], "the program was not started")


@pytest.mark.parametrize("victim", ["worker", "zygote"])
def test_lost_worker_is_replaced_and_its_program_rerun(victim: str) -> None:
    with Interpreter(quick_to_start(slots=1)) as interpreter:
        server = interpreter.server_pid
        session = interpreter.open_session()
        running = interpreter.submit("import time\ntime.sleep(2)\nprint('done')")
        until_running(interpreter)
        below = descendants(server, depth=3)
        os.kill(below[0] if victim == "zygote" else below[2], signal.SIGKILL)
        result = running.result()
        assert (result.status, result.stdout, result.attempts) == (Status.OK, "done\n", 2), result
        health = interpreter.health()
        assert (health["restarts"] >= 1, health["retries"]) == (True, 1)
        assert interpreter.run("print(1)", session).stdout == "1\n"


def test_lost_session_is_a_sandbox_failure() -> None:
    with Interpreter(quick_to_start(slots=1)) as interpreter:
        session = interpreter.open_session()
        interpreter.run("x = 1", session)
        running = interpreter.submit("import time\ntime.sleep(3)", session)
        until_running(interpreter)
        os.kill(descendants(interpreter.server_pid, depth=3)[2], signal.SIGKILL)
        result = running.result()
        assert result.status is Status.SANDBOX_FAILURE
        assert "variables" in result.error_line


def test_lost_server_is_restarted() -> None:
    with Interpreter(quick_to_start()) as interpreter:
        running = interpreter.submit("import time\ntime.sleep(2)\nprint('done')")
        until_running(interpreter)
        os.kill(interpreter.server_pid, signal.SIGKILL)
        assert running.result().stdout == "done\n"


def test_server_that_cannot_be_started_at_once_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with Interpreter(quick_to_start()) as interpreter:
        os.kill(interpreter.server_pid, signal.SIGKILL)
        make, refusals = tempfile.mkdtemp, [OSError(28, "No space left on device")] * 2

        def mkdtemp(**options: str) -> str:
            if refusals:
                raise refusals.pop()
            return make(**options)

        monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
        assert interpreter.run("print('well')").stdout == "well\n"


def servers() -> set[int]:
    """The sandbox servers that this process has started."""
    return {
        pid
        for pid in descendants(os.getpid(), depth=1)
        if b"sandbox.server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


@pytest.mark.parametrize("pause_s", [0.0, 0.1, 0.4])
def test_call_that_starts_the_server_again_ends_with_the_interpreter(pause_s: float) -> None:
    before = servers()
    with Interpreter(quick_to_start()) as interpreter:
        lost = interpreter.submit("import time\ntime.sleep(60)")
        until_running(interpreter)
        os.kill(interpreter.server_pid, signal.SIGKILL)
        time.sleep(pause_s)
    assert lost.result(60).status is Status.SANDBOX_FAILURE
    assert servers() == before


def test_session_does_not_survive_its_server() -> None:
    with Interpreter(quick_to_start()) as interpreter:
        session = interpreter.open_session()
        interpreter.run("x = 1", session)
        os.kill(interpreter.server_pid, signal.SIGKILL)
        result = interpreter.run("print(x)", session)
        assert (result.status, "its variables" in result.error_line) == (Status.SANDBOX_FAILURE, True)
        interpreter.close_session(session)
        assert interpreter.run("print(1)", interpreter.open_session()).stdout == "1\n"


def test_outage_never_raises() -> None:
    settings = quick_to_start()
    with Interpreter(settings) as server, Interpreter(settings, address=server.address) as guest:
        session = guest.open_session()
        before = guest.health()
        server.close()
        lost = guest.open_session()
        results = [guest.run("print(1)", name) for name in (None, session, lost)]
        assert {result.status for result in results} == {Status.SANDBOX_FAILURE}
        for name in (session, lost):
            guest.close_session(name)
        assert guest.health() == before


def test_limits_of_the_settings_hold_at_an_external_server(interpreter: Interpreter) -> None:
    own = SandboxSettings(limits=Limits(wall_s=0.4, output_chars=120))
    with Interpreter(own, address=interpreter.address) as guest:
        result = guest.run("print('x' * 1000)\nimport time\ntime.sleep(3)")
        assert (result.status, len(result.stdout) <= 120) == (Status.TIMEOUT, True)


def test_address_without_server_is_an_error_at_start() -> None:
    with pytest.raises(SandboxUnavailable, match=r"no sandbox server at /nonexistent.*start one"):
        Interpreter(SandboxSettings(), address="/nonexistent")


def test_server_that_cannot_restart_is_a_sandbox_failure() -> None:
    with Interpreter(quick_to_start()) as host:
        guest = Interpreter(SandboxSettings(retries=1), address=host.address)
        assert guest.run("print(1)").stdout == "1\n"
        host.close()
        result = guest.run("print(1)")
        assert result.status is Status.SANDBOX_FAILURE
        assert "no sandbox server" in result.error_line
        guest.close()


def test_everything_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "from tasks.shared.sandbox import Interpreter, SandboxSettings\ni = Interpreter(SandboxSettings(workers=1, preload=('math',)))\n"
        "f = i.submit('import time; time.sleep(60)')\nprint(i.server_pid, flush=True)\nf.result()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    until(lambda: len(descendants(server)) >= 3, "the program was not started")
    family = [server, *descendants(server)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in family), "processes are left")


def test_preload_that_cannot_be_imported_names_the_remedy() -> None:
    with pytest.raises(SandboxUnavailable, match=r"no_such_module cannot be imported by .*install it"):
        Interpreter(SandboxSettings(preload=("no_such_module",)))


BARE = """
import json, struct, sys
from tasks.shared.sandbox import kernel
# As a kernel without Landlock that also refuses namespaces: landlock_create_ruleset and unshare fail.
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x50026), (0x15, 0, 1, 272), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
kernel.install_filter(b"".join(struct.pack("=HBBI", *step) for step in steps))
from tasks.shared.sandbox import Interpreter, SandboxSettings, SandboxUnavailable
try:
    with Interpreter(SandboxSettings(workers=1, preload=("math",), allow_unsafe=sys.argv[1] == "unsafe")) as interpreter:
        result = interpreter.run("print(1)")
        try:
            Interpreter(SandboxSettings(), address=interpreter.address)
            refused = False
        except SandboxUnavailable as error:
            refused = "without isolation" in str(error)
        print(json.dumps([result.stdout, result.isolation, interpreter.health()["unsafe"], refused]))
except SandboxUnavailable as error:
    print(json.dumps(str(error)))
"""


def run_without_isolation(how: str) -> object:
    ran = subprocess.run(
        [sys.executable, "-c", BARE, how], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(ran.stdout)


def test_refuses_to_start_where_it_cannot_isolate() -> None:
    message = run_without_isolation("safe")
    assert isinstance(message, str)
    for part in ("cannot isolate", "namespaces are refused", "Landlock 0", "6.12", "allow_unsafe = true"):
        assert part in message


def test_allow_unsafe_is_the_only_way_round_and_shows() -> None:
    assert run_without_isolation("unsafe") == ["1\n", "unsafe", True, True]


def test_stack_that_is_asked_for_is_not_replaced_by_another() -> None:
    with Interpreter(quick_to_start(isolation="landlock")) as interpreter:
        result = interpreter.run("open('file', 'w')")
        assert (result.isolation, result.status) == ("landlock", Status.FORBIDDEN)
