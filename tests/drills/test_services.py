"""Drills on services: a teacher that is away, a name that does not resolve, a crowd before the interpreter, no server.

A Prefect server that is not there: tests/integration/test_bad_input.py; a lost worker, zygote or interpreter:
tests/integration/test_sandbox_programs.py.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from tasks.shared.artifacts import Store
from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings, Status
from tests.flows.conftest import Prefect, prefect, small, until
from tests.integration.synthesis_world import finish, make_request, run_here, start
from tests.integration.teacher_server import serve

__all__ = ["prefect"]  # the fixture of tests/flows


def test_teacher_comes_late(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """The teacher's endpoint is away when the stage begins and comes back: every problem gets its trace."""
    with serve() as server:
        port = int(server.base_url.rsplit(":", 1)[1].split("/")[0])
    asked = []

    def come_back() -> None:
        time.sleep(3)
        with serve(port=port) as late:
            asked.append(late)
            done.wait(60)

    done = threading.Event()
    thread = threading.Thread(target=come_back)
    thread.start()
    teacher = {"max_attempts": 12, "max_wait_s": 1.0}
    try:
        request = make_request(tmp_path, ["honest"] * 4, server.base_url, teacher=teacher)
        result = run_here(request)
    finally:
        done.set()
        thread.join()
    assert Store(request.store).manifest(result.outputs["traces"]).metrics["accepted"] == 4
    saw(f"away for 3 s; {len(asked[0].asked)} requests answered after that")


def test_name_does_not_resolve(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """DNS gone: the stage ends with one line that names the endpoint, and publishes no traces."""
    teacher = {"max_attempts": 2, "max_wait_s": 0.2}
    request = make_request(tmp_path, ["honest"] * 2, "http://teacher.invalid:9/v1", teacher=teacher)
    code, event, written = finish(start(request))
    assert code != 0 and "Traceback" not in str(event), written[-2000:]
    assert "teacher.invalid" in event["message"]
    kinds = {location.split("/")[0] for location in Store(request.store).locations()}
    assert "traces" not in kinds
    saw(f"exit code {code}: {event['message'][:200]}")


def test_crowd_before_the_interpreter(saw: Callable[[str], None]) -> None:
    """Ten times as many programs as the interpreter has slots, at once: each gets its own right answer."""
    settings = SandboxSettings(limits=Limits(wall_s=2.0), workers=1, slots=2, preload=("math",))
    crowd = 10 * settings.slots * settings.workers
    with Interpreter(settings) as running, ThreadPoolExecutor(crowd) as pool:
        started = time.monotonic()
        results = list(pool.map(lambda n: running.run(f"print({n} ** 2)"), range(5 * crowd)))
    assert [(result.status, result.stdout.strip()) for result in results] == [
        (Status.OK, str(n**2)) for n in range(5 * crowd)
    ]
    saw(f"{5 * crowd} programs, {crowd} at a time for 2 slots; {time.monotonic() - started:.1f} s")


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_prefect_server_away(
    tmp_path: Path, prefect: Prefect, outage_s: float, saw: Callable[[str], None]
) -> None:
    """Prefect's server is taken away while SFT runs, and comes back: the run ends, and nothing was executed twice."""
    changes = small(**{"sft.max_steps": 150, "sft.epochs": 400})
    flow_run: UUID = prefect.start("train/tiny", run="outage", overrides=changes)

    def steps() -> int:
        return sum(event["event"] == "progress" for event in prefect.events("outage", "sft"))

    until(lambda: steps() >= 1)
    server = psutil.Process(prefect.cluster.server.pid)
    frozen = [server, *server.children(recursive=True)]
    try:
        for process in frozen:
            process.suspend()  # connections hang, as behind a broken network
        before = steps()
        until(lambda: steps() >= before + 20)  # none waits for the server
        time.sleep(outage_s)
    finally:
        for process in frozen:
            process.resume()
    ended = prefect.wait(flow_run)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    labels = ("prepare", "synthesize", "sft", "rl-1", "evaluate-rl", "report")
    assert [prefect.executions("outage", label) for label in labels] == [1] * len(labels)
    saw(f"away for {outage_s:g} s")
