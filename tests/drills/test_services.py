"""Drills on services: an unreachable teacher, names that do not resolve, an overloaded interpreter, no server.

A Prefect server that never existed: tests/integration/test_bad_input.py; a lost worker, zygote or interpreter:
tests/integration/test_sandbox_programs.py.
"""

import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from tasks.shared.artifacts import Store
from tasks.shared.generation.endpoint.responses import ResponseLog
from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings, Status
from tests.flows.conftest import Prefect, prefect, small
from tests.integration.stages import in_process
from tests.integration.synthesis_world import finish, make_request, start
from tests.integration.teacher_server import serve
from tests.waiting import until

__all__ = ["prefect"]  # the fixture of tests/flows
AWAY_S = 3.0
TEACHER = """
import sys, time
from tests.integration.teacher_server import serve
with serve(delay_s=0.2, port=int(sys.argv[1])):
    time.sleep(600)
"""


def test_teacher_comes_late(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """The teacher's endpoint is down when the stage starts and comes back: every problem gets its trace."""
    with serve() as server:
        port = int(server.base_url.rsplit(":", 1)[1].split("/")[0])
    asked = []

    def come_back() -> None:
        time.sleep(AWAY_S)
        with serve(port=port) as late:
            asked.append(late)
            done.wait(60)

    done = threading.Event()
    thread = threading.Thread(target=come_back)
    thread.start()
    teacher = {"max_attempts": 12, "max_wait_s": 1.0}
    try:
        request = make_request(tmp_path, ["honest"] * 4, server.base_url, teacher=teacher)
        result = in_process(request)
    finally:
        done.set()
        thread.join()
    assert Store(request.store).manifest(result.outputs["traces"]).metrics["accepted"] == 4
    saw(f"away for {AWAY_S:g} s; {len(asked[0].asked)} requests answered after that")


@contextlib.contextmanager
def teacher_process(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A teacher that can be killed, ready."""
    process = subprocess.Popen([sys.executable, "-c", TEACHER, str(port)])
    try:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, timeout_s=60)
        yield process
    finally:
        process.kill()
        process.wait()


def test_teacher_killed_in_mid_run(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """The teacher's server is killed while it answers and comes back: every problem gets its trace."""
    with serve() as server:
        base_url = server.base_url
    port, num_problems = int(base_url.rsplit(":", 1)[1].split("/")[0]), 12
    teacher = {"max_attempts": 12, "max_wait_s": 1.0, "concurrency": 2}
    request = make_request(tmp_path, ["honest"] * num_problems, base_url, teacher=teacher)
    kept = Path(request.scratch) / "responses"
    with teacher_process(port):
        stage = start(request)
        until(lambda: sum(path.stat().st_size for path in kept.glob("*")) > 1000, timeout_s=120)
    assert stage.poll() is None
    time.sleep(AWAY_S / 2)
    before = num_responses(kept, tmp_path / "copy.jsonl.gz")
    time.sleep(AWAY_S / 2)
    assert num_responses(kept, tmp_path / "copy.jsonl.gz") == before < 2 * num_problems  # two turns each
    assert stage.poll() is None
    with teacher_process(port):
        code, event, written = finish(stage)
    assert code == 0, written[-2000:]
    assert event["metrics"]["accepted"] == num_problems
    saw(f"killed after {before} responses, away for {AWAY_S:g} s; {num_problems} of {num_problems} traces")


def num_responses(directory: Path, copy: Path) -> int:
    """The number of complete responses in a log."""
    ResponseLog(directory).write(copy)
    return len(gzip.decompress(copy.read_bytes()).splitlines())


def test_names_resolve_late(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """The name server is silent when the stage starts and answers later: every problem gets its trace."""
    if os.geteuid() != 0:
        pytest.fail("this drill has a network of its own, which needs root: run it as root")
    alone = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.drills.silent_names"]
    done = subprocess.run([*alone, str(tmp_path), str(AWAY_S)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["accepted"] == report["problems"] and report["unanswered"] and report["answered"], report
    saw(
        f"{report['unanswered']} unanswered questions in {AWAY_S:g} s, {report['answered']} answered later; "
        f"{report['accepted']} of {report['problems']} traces"
    )


def test_name_does_not_resolve(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """DNS fails: the stage ends with one line that names the endpoint, and publishes no traces."""
    teacher = {"max_attempts": 2, "max_wait_s": 0.2}
    request = make_request(tmp_path, ["honest"] * 2, "http://teacher.invalid:9/v1", teacher=teacher)
    code, event, written = finish(start(request))
    assert code != 0 and "Traceback" not in str(event), written[-2000:]
    assert "teacher.invalid" in event["message"]
    kinds = {location.split("/")[0] for location in Store(request.store).locations()}
    assert "traces" not in kinds
    saw(f"exit code {code}: {event['message'][:200]}")


def test_crowd_before_the_interpreter(saw: Callable[[str], None]) -> None:
    """Ten times as many programs at once as the interpreter has slots: each gets its own right answer."""
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
    """The Prefect server is unavailable for a while during SFT: the run completes, and nothing runs twice."""
    changes = small(**{"sft.max_steps": 150, "sft.epochs": 400})
    flow_run: UUID = prefect.start("train/tiny", run="outage", overrides=changes)

    def steps() -> int:
        return sum(event["event"] == "progress" for event in prefect.events("outage", "sft"))

    until(lambda: steps() >= 1)
    server = psutil.Process(prefect.cluster.server.pid)
    frozen = [server, *server.children(recursive=True)]
    try:
        for process in frozen:
            process.suspend()  # connections hang, as in a broken network
        before = steps()
        until(lambda: steps() >= before + 20)  # no stage waits for the server
        time.sleep(outage_s)
    finally:
        for process in frozen:
            process.resume()
    ended = prefect.wait(flow_run)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    labels = ("prepare", "synthesize", "sft", "rl-1", "evaluate-rl", "report")
    assert [prefect.starts("outage", label) for label in labels] == [1] * len(labels)
    saw(f"away for {outage_s:g} s")
