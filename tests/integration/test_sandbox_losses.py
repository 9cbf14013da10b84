"""Every loss is answered: lost and silent workers, full tables, kills from outside, impossible limits.

An outage is never the model's error, and no program can cause one at will.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.shared.sandbox import Interpreter, Limits, SandboxClient, SandboxSettings, Status, client, workers
from tasks.shared.sandbox.broker import Broker
from tasks.shared.sandbox.client import RequestRefused
from tasks.shared.sandbox.executions import Execution
from tasks.shared.sandbox.protocol import FrameReader, encode

LONG = Limits(wall_s=60.0, cpu_s=60.0)
QUICK: dict[str, Any] = {"preload": ("math",), "limits": LONG}  # starts at once
ONE = SandboxSettings(workers=1, slots=1, **QUICK)
SLEEP = b"print(1)\nimport time; time.sleep(50)"


@contextlib.asynccontextmanager
async def brokered(settings: SandboxSettings = ONE) -> AsyncIterator[Broker]:
    broker = Broker(settings)
    broker.workers.start()
    try:
        await broker.workers.first_child()
        yield broker
    finally:
        broker.workers.close()


async def running(broker: Broker, attempt: int = 1) -> Execution:
    """Wait until the one execution is at that attempt."""
    deadline = time.monotonic() + 120
    while True:
        for execution in broker._running:
            if execution.attempts == attempt and execution.child is not None:
                return execution
        assert time.monotonic() < deadline, "nothing runs"
        await asyncio.sleep(0.01)


async def printing(broker: Broker) -> Execution:
    """Wait until the one execution has printed something."""
    execution = await running(broker)
    while not os.fstat(execution.stdout_fd).st_size:
        await asyncio.sleep(0.01)
    return execution


def kill_worker(execution: Execution, with_signal: signal.Signals = signal.SIGKILL) -> None:
    assert execution.child is not None
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(execution.child.worker.pidfd, with_signal)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 240))  # type: ignore[arg-type]


def test_program_that_loses_every_worker_is_blamed_alone() -> None:
    async def scenario() -> None:
        async with brokered(SandboxSettings(workers=1, slots=2, **QUICK)) as broker:
            guilty = broker.submit(SLEEP, LONG)
            neighbour = broker.submit(b"import time; time.sleep(1); print('well')", LONG)
            while len(broker._running) < 2:
                await asyncio.sleep(0.01)
            kill_worker(next(iter(broker._running)))
            while True:  # whichever runs first, it runs alone
                execution = await running(broker, attempt=2)
                assert len(broker._running) == 1
                if execution.code == SLEEP:
                    break
                await asyncio.sleep(0.01)
            kill_worker(execution)
            answer, well = await guilty, await neighbour
            assert (answer.status, answer.attempts) == (Status.ERROR, 2), answer
            assert "ended the process that runs it" in answer.error_line
            assert (well.status, well.stdout, well.attempts) == (Status.OK, "well\n", 2), well
            assert (await broker.submit(b"print(1)", LONG)).stdout == "1\n"
            assert not broker._suspects

    run(scenario)


def test_a_failure_does_not_outlast_its_run() -> None:
    """The worker is killed, and the program handed to a dead child before the broker reads of it."""

    async def scenario() -> None:
        async with brokered(replace(ONE, retries=1)) as broker:
            (link,) = broker.workers._links.values()
            signal.pidfd_send_signal(link.pidfd, signal.SIGKILL)
            time.sleep(0.5)  # in which the broker reads nothing
            told = await broker.submit(b"print('well')", LONG)
            assert (told.status, told.stdout, told.attempts) == (Status.OK, "well\n", 2), told

    run(scenario)


def test_zygote_that_cannot_be_started_again_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with brokered() as broker:
            zygote = broker.workers._zygote
            assert zygote is not None
            monkeypatch.setattr(subprocess, "Popen", refuse)
            zygote.kill()
            assert "Resource temporarily unavailable" in await broker.workers.failed

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    run(scenario)


def test_outage_of_the_empty_program_blames_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with brokered() as broker:
            monkeypatch.setattr(broker, "_hand_over", lambda execution, child: kill_worker(execution))
            answer = await broker.submit(b"print(1)", LONG)
            assert (answer.status, answer.attempts) == (Status.SANDBOX_FAILURE, ONE.retries + 1), answer

    run(scenario)


def test_withdrawn_suspect_leaves_the_queue() -> None:
    async def scenario() -> None:
        async with brokered(SandboxSettings(workers=1, slots=2, **QUICK)) as broker:
            futures = [broker.submit(SLEEP, LONG) for _ in range(2)]
            kill_worker(next(iter(broker._running)))
            await running(broker, attempt=2)
            for future in reversed(futures):
                future.cancel()
            assert (await broker.submit(b"print(1)", LONG)).stdout == "1\n"
            assert not broker._suspects

    run(scenario)


@pytest.mark.parametrize("number_failing", [2, 100])
def test_exhausted_descriptors_are_reported_and_lose_no_slot(
    number_failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [number_failing]
    make = os.memfd_create

    def memfd_create(name: str, *flags: int) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return make(name, *flags)

    async def scenario() -> None:
        async with brokered() as broker:
            session = broker.open_session()
            for name in (None, session):
                monkeypatch.setattr(os, "memfd_create", memfd_create)
                left[0] = number_failing
                answer = await broker.submit(b"print(1)", LONG, name)
                monkeypatch.setattr(os, "memfd_create", make)
                if number_failing == 2:
                    assert (answer.stdout, answer.attempts) == ("1\n", 3), answer
                else:
                    assert (answer.status, "Too many open files" in answer.error_line) == (
                        Status.SANDBOX_FAILURE,
                        True,
                    ), answer
                assert not broker._running
                assert (await broker.submit(b"print(2)", LONG, name)).stdout == "2\n"

    run(scenario)


def test_verdict_that_raises_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with brokered() as broker:
            with monkeypatch.context() as patch:
                patch.setattr("tasks.shared.sandbox.verdict.read_output", lambda *_: 1 / 0)
                answer = await broker.submit(b"print(1)", LONG)
            assert (answer.status, "ZeroDivisionError" in answer.error_line) == (Status.ERROR, True), answer
            assert not broker._running
            assert (await broker.submit(b"print(1)", LONG)).stdout == "1\n"

    run(scenario)


@pytest.mark.parametrize("who", ["worker", "zygote"])
def test_silent_worker_is_replaced(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_BEAT_S", 0.1)

    async def scenario() -> None:
        async with brokered() as broker:
            zygote = broker.workers._zygote
            assert zygote is not None
            stopped = broker.submit(b"import time; time.sleep(0.2); print('well')", LONG)
            execution = await running(broker)
            if who == "zygote":
                os.kill(zygote.pid, signal.SIGSTOP)
                kill_worker(execution)  # the zygote that should fork the replacement does not answer
            else:
                kill_worker(execution, signal.SIGSTOP)
            answer = await stopped
            assert (answer.status, answer.stdout, answer.attempts) == (Status.OK, "well\n", 2), answer
            assert broker.metrics.restarts >= 1

    run(scenario)


def test_worker_that_never_reports_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.shared.sandbox.broker._END_S", 0.3)
    monkeypatch.setattr(workers, "_BEAT_S", 100.0)

    async def scenario() -> None:
        async with brokered() as broker:
            stopped = broker.submit(b"print('well')" + b" " * 10, Limits(wall_s=0.5))
            execution = await running(broker)
            kill_worker(execution, signal.SIGSTOP)
            assert (await stopped).attempts == 2

    run(scenario)


def test_kill_from_outside_is_an_outage_and_not_out_of_memory() -> None:
    async def scenario() -> None:
        async with brokered() as broker:
            future = broker.submit(b"import time; time.sleep(1); print('well')", LONG)
            execution = await running(broker)
            assert execution.child is not None
            execution.child.kill()
            answer = await future
            assert (answer.status, answer.stdout, answer.attempts) == (Status.OK, "well\n", 2), answer
            session = broker.open_session()
            await broker.submit(b"x = 1", LONG, session)
            block = broker.submit(SLEEP, LONG, session)
            execution = await printing(broker)
            assert execution.child is not None
            execution.child.kill()
            answer = await block
            assert (answer.status, answer.session_alive) == (Status.SANDBOX_FAILURE, False), answer
            assert "killed from outside, its variables with it" in answer.error_line

    run(scenario)


def test_kill_by_the_kernel_for_memory_says_memory(tmp_path: Path) -> None:
    """The kernel's own counter tells both apart. Here it is a file of the test."""

    async def scenario() -> None:
        async with brokered() as broker:
            counts = tmp_path / "memory.events"
            counts.write_text("low 0\noom_kill 3\n")
            broker._memory._files = [counts]
            broker._memory._seen = 3
            future = broker.submit(SLEEP, LONG)
            execution = await printing(broker)
            counts.write_text("low 0\noom_kill 4\n")
            assert execution.child is not None
            execution.child.kill()
            assert (await future).status is Status.OUT_OF_MEMORY
            session = broker.open_session()
            await broker.submit(b"x = 1", LONG, session)
            counts.write_text("low 0\noom_kill 5\n")
            child = broker._sessions[session].child
            assert child is not None
            child.kill()
            while broker._sessions[session].child is not None:
                await asyncio.sleep(0.01)
            answer = await broker.submit(b"print(x)", LONG, session)
            assert (answer.status, answer.session_alive) == (Status.OUT_OF_MEMORY, False), answer
            assert "variables are lost" in answer.error

    run(scenario)


NARROW = """
import json, sys
from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings, SandboxUnavailable
from tasks.shared.sandbox.client import RequestRefused
settings = SandboxSettings(workers=1, slots=2, preload=("math",), limits=Limits(**json.loads(sys.argv[1])))
try:
    with Interpreter(settings) as interpreter:
        try:
            result = interpreter.run("print(1)", limits=Limits(**json.loads(sys.argv[2])))
            print(json.dumps([result.status, result.stdout]))
        except RequestRefused as error:
            print(json.dumps(["refused", str(error)]))
        print(json.dumps(interpreter.run("print(2)").stdout))
except SandboxUnavailable as error:
    print(json.dumps(["unavailable", str(error)]))
"""


def narrow(shell: str, default: dict[str, float], asked: dict[str, float]) -> list[Any]:
    """The result of a program whose server was started with less by a shell."""
    command = ["bash", "-c", f'{shell} && exec "$0" -c "$@"', sys.executable, NARROW]
    command += [json.dumps(default), json.dumps(asked)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.mark.parametrize(("shell", "limits", "part"), [
    ("ulimit -n 256", {"open_files": 1000}, "open_files = 1000"),
    ("ulimit -f 1000", {"disk_mb": 8}, "disk_mb = 8"),
    ("ulimit -t 900", {"cpu_s": 5000.0}, "cpu_s = 5000"),
    ("ulimit -u 4096", {"processes": 5000}, "processes = 5000"),
])  # fmt: skip
def test_limit_above_the_hard_one_is_refused_in_one_line(
    shell: str, limits: dict[str, float], part: str
) -> None:
    (answer,) = narrow(shell, limits, limits)
    assert answer[0] == "unavailable"
    assert part in answer[1]
    assert "hard limit" in answer[1]
    if "disk_mb" not in limits:  # which a request may not raise
        refused, well = narrow(shell, {}, limits)
        assert (refused[0], part in refused[1], well) == ("refused", True, "2\n")


def test_exhausted_user_namespaces_are_an_outage() -> None:
    """The last one is the worker's: its children get none and run no program."""
    shell = "unshare --user --map-root-user sh -c 'echo 1 > /proc/sys/user/max_user_namespaces"
    command = f"""{shell}; exec "$0" -c "$@"' {sys.executable} "$0" "$@" """
    ran = subprocess.run(
        ["sh", "-c", command, NARROW, "{}", "{}"], capture_output=True, text=True, timeout=300, check=False
    )
    answer = json.loads(ran.stdout.splitlines()[-1])
    assert answer[0] == "unavailable", ran
    assert "unshare: No space left" in answer[1]


@contextlib.asynccontextmanager
async def mute_server(path: Path, knows: bool) -> AsyncIterator[None]:
    """Greets and then is silent, or answers only questions about open requests, of which it knows none."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader()
        while data := await reader.read(65536):
            for message in frames.feed(data):
                if message["op"] == "hello":
                    writer.write(encode({"id": message["id"], "ok": {"isolation": "namespaces"}}))
                elif message["op"] == "in_flight" and knows:
                    writer.write(encode({"id": message["id"], "ok": []}))
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    async with server:
        yield


@pytest.mark.parametrize(("knows", "error"), [(False, client.SandboxSilent), (True, client.RequestLost)])
def test_client_gives_up_on_a_silent_server(
    knows: bool, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_ASK_EVERY_S", 0.1)
    monkeypatch.setattr(client, "_SILENCE_S", 1.0)

    async def scenario() -> None:
        async with mute_server(tmp_path / "socket", knows):
            asking = await SandboxClient.connect(str(tmp_path / "socket"))
            with pytest.raises(error):
                await asking.run("print(1)")
            await asking.close()

    run(scenario)


def test_client_waits_while_the_server_knows_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_ASK_EVERY_S", 0.05)
    monkeypatch.setattr(client, "_SILENCE_S", 10.0)
    with Interpreter(ONE) as interpreter:
        slow = [interpreter.submit("import time; time.sleep(1); print('well')") for _ in range(2)]
        assert [one.result().stdout for one in slow] == ["well\n"] * 2


def test_hung_server_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_ASK_EVERY_S", 0.2)
    monkeypatch.setattr(client, "_SILENCE_S", 2.0)
    with Interpreter(ONE) as interpreter:
        os.kill(interpreter.server_pid, signal.SIGSTOP)
        assert interpreter.run("print('well')").stdout == "well\n"


def test_hung_external_server_is_a_sandbox_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_ASK_EVERY_S", 0.2)
    monkeypatch.setattr(client, "_SILENCE_S", 1.0)
    monkeypatch.setattr(client, "_HELLO_S", 1.0)
    with Interpreter(ONE) as host, Interpreter(SandboxSettings(retries=1), address=host.address) as guest:
        os.kill(host.server_pid, signal.SIGSTOP)
        answer = guest.run("print(1)")
        os.kill(host.server_pid, signal.SIGCONT)
        assert answer.status is Status.SANDBOX_FAILURE, answer
        assert "answered nothing" in answer.error_line


def test_session_out_of_descriptors_is_reported() -> None:
    with Interpreter(ONE) as interpreter:
        session = interpreter.open_session()
        code = "import os\nkept = []\ntry:\n    while True: kept.append(os.dup(1))\nexcept OSError: print('full')"
        assert interpreter.run(code, session).stdout == "full\n"
        answer = interpreter.run("print('ran')", session)
        assert (answer.status, answer.stdout, answer.session_alive) == (Status.ERROR, "", False), answer
        assert "too many open files" in answer.error_line
        with pytest.raises(RequestRefused):
            interpreter.run("print(1)", "no session")
