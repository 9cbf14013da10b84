"""The part of elapsed time that counts for a program: a real process with known times."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tasks.shared.sandbox import ExecutionResult, Limits, SandboxSettings, Status
from tasks.shared.sandbox.broker import Broker
from tasks.shared.sandbox.executions import ProcessorTimes, own_time_s, processor_times

BURN = "import time\nend = time.thread_time() + 0.4\nwhile time.thread_time() < end: pass\n"


@pytest.fixture
def idle_after_work() -> Iterator[int]:
    """The pidfd of a process that has run for 0.4 s and waits for its input to end."""
    code = BURN + "print('idle', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pidfd = os.pidfd_open(process.pid)
        while True:  # until it waits and its times stay constant
            before = processor_times(pidfd)
            time.sleep(0.2)
            if processor_times(pidfd) == before:
                break
        yield pidfd
        os.close(pidfd)
        process.kill()


def times(pidfd: int) -> ProcessorTimes:
    found = processor_times(pidfd)
    assert found is not None
    return found


def test_time_of_earlier_blocks_does_not_count(idle_after_work: int) -> None:
    before = times(idle_after_work)
    assert before.run_s > 0.35
    assert own_time_s(0.1, before, times(idle_after_work)) == pytest.approx(0.1)


def test_waits_of_earlier_blocks_earn_nothing(idle_after_work: int) -> None:
    """A pause counts in full, however long the process was runnable in earlier blocks."""
    before = times(idle_after_work)
    assert own_time_s(30.0, before, times(idle_after_work)) == pytest.approx(30.0)
    ((thread, (run_s, wait_s)),) = before.threads.items()
    waited = ProcessorTimes(before.run_s, {thread: (run_s, wait_s - 10.0)})
    assert own_time_s(30.0, waited, times(idle_after_work)) == pytest.approx(20.0), (
        "ten seconds of waiting in this block"
    )


def test_threads_that_wait_for_their_siblings_earn_nothing() -> None:
    """Eight threads that computed and now sleep: each was runnable while the others ran, without other processes."""
    now = ProcessorTimes(run_s=2.4, threads=dict.fromkeys(range(8), (0.3, 0.9)))
    assert own_time_s(4.0, ProcessorTimes(), now) == 4.0
    crowded = ProcessorTimes(run_s=2.4, threads={1: (2.3, 3.0), 2: (0.1, 0.0)})
    assert own_time_s(6.0, ProcessorTimes(), crowded) == pytest.approx(3.1)


def test_a_block_begins_with_the_times_of_its_child() -> None:
    async def second_block() -> float:
        broker = Broker(SandboxSettings(workers=1, slots=1, preload=("math",), limits=Limits(wall_s=60.0)))
        broker.workers.start()
        try:
            session = broker.open_session()
            limits = broker.settings.limits
            assert (await broker.submit(BURN.encode(), limits, session)).session_alive
            block = broker.submit(b"import time; time.sleep(0.2)", limits, session)
            (execution,) = broker._running
            await block
            return execution.before.run_s
        finally:
            broker.workers.close()

    assert asyncio.run(second_block()) > 0.35


def test_waiting_for_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of 0.4 s succeed although each takes longer than the wall limit, as there are fewer processors."""
    monkeypatch.setattr("tasks.shared.sandbox.broker._LONGEST_WAIT", 1000.0)  # however busy the machine is

    async def crowd() -> list[ExecutionResult]:
        settings = SandboxSettings(workers=2, slots=2 * len(os.sched_getaffinity(0)), preload=("math",))
        broker = Broker(settings)
        broker.workers.start()
        try:
            code = f"{BURN}print('done')".encode()
            limits = Limits(wall_s=0.6, cpu_s=5.0)
            return await asyncio.gather(*(broker.submit(code, limits) for _ in range(2 * settings.slots)))
        finally:
            broker.workers.close()

    results = asyncio.run(crowd())
    assert [result.stdout for result in results] == ["done\n"] * len(results)
    assert max(result.seconds for result in results) > 0.6


def test_processor_time_is_limited_where_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with /proc mounted so that it hides the processes of others."""
    monkeypatch.setattr("tasks.shared.sandbox.executions.processor_times", lambda _: None)

    async def endless() -> ExecutionResult:
        broker = Broker(SandboxSettings(workers=1, slots=1, preload=("math",)))
        broker.workers.start()
        try:
            return await broker.submit(b"while True: pass", Limits(wall_s=300.0, cpu_s=0.5))
        finally:
            broker.workers.close()

    result = asyncio.run(endless())
    assert (result.status, result.seconds < 100) == (Status.TIMEOUT, True), result
