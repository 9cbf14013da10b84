"""Drills that kill the flow's process, the Prefect server and the worker during a run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from flows.server import cluster
from tests.drills import table
from tests.flows.conftest import FINAL_STATES, Prefect, small
from tests.waiting import until

RUN = "killed"
CHANGES = small(
    **{"sft.max_steps": 150, "sft.epochs": 400, "rl.steps_per_round": 4, "rl.checkpoint_every_steps": 1}
)
LABELS = ("prepare", "synthesize", "sft", "rl-1", "evaluate-rl", "report")


def ours(home: Path) -> Iterator[psutil.Process]:
    """The processes of this home."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("TIRFLOW_HOME") == str(home):
                yield process
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose processes are ended afterwards, also those whose parent a drill has killed."""
    yield tmp_path / "home"
    running = cluster.find(tmp_path / "home")
    if running:
        cluster.stop(running)
    for process in ours(tmp_path / "home"):
        process.kill()


def begin(home: Path) -> Prefect:
    """`tirflow run`: starts a missing server or worker, then the run."""
    prefect = Prefect(cluster.start(home, owned=True))
    prefect.start("train/tiny", run=RUN, overrides=CHANGES)
    return prefect


def steps(prefect: Prefect, label: str, attempt: int = 1) -> int:
    """The number of steps that the given attempt at a stage has reported."""
    names = [event["event"] for event in prefect.events(RUN, label)]
    starts = [place for place, name in enumerate(names) if name == "start"]
    return names[starts[attempt - 1] :].count("progress") if len(starts) == attempt else 0


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=60)


def flow_of(prefect: Prefect) -> psutil.Process:
    """The process of the flow, a child of the worker."""
    flows = [
        child
        for child in psutil.Process(prefect.cluster.worker.pid).children()
        if "prefect" in " ".join(child.cmdline())
    ]
    assert len(flows) == 1, [flow.cmdline() for flow in flows]
    return flows[0]


def kill_server(prefect: Prefect) -> None:
    server = psutil.Process(prefect.cluster.server.pid)
    for process in [server, *server.children(recursive=True)]:
        kill(process)


def start_server(prefect: Prefect) -> None:
    """A server with the same database at the same address, as a supervisor would start it."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with (prefect.home / "prefect" / "server.log").open("ab") as log:
        subprocess.Popen(
            [*command, "--port", str(prefect.cluster.port)],
            stdout=log,
            stderr=log,
            env=os.environ | cluster.settings(prefect.home, prefect.cluster.port),
            start_new_session=True,
        )
    until(lambda: answers(prefect), timeout_s=300)


def answers(prefect: Prefect) -> bool:
    try:
        return httpx.get(f"{prefect.cluster.api_url}/health", timeout=10).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def check_done_once(prefect: Prefect, kills: dict[str, int]) -> None:
    """No stage was restarted after it had ended, or more often than it was killed."""
    for label in LABELS:
        names = [event["event"] for event in prefect.events(RUN, label)]
        assert "start" not in names[names.index("result") :], f"{label}: done twice: {names}"
        assert names.count("start") <= 1 + kills.get(label, 0), f"{label}: {names.count('start')} attempts"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_flow_server_and_worker_killed(home: Path, saw: Callable[[str], None]) -> None:
    """SIGKILL to flow, Prefect server and worker during a run: the same command repeats no work and ends equal."""
    prefect = begin(home)
    until(lambda: steps(prefect, "sft") >= 8)
    stage = prefect.stage_process("sft")
    assert stage is not None
    kill(flow_of(prefect))
    until(lambda: not stage.is_running(), timeout_s=120)  # no process reads its output any more

    prefect = begin(home)
    until(lambda: steps(prefect, "sft", attempt=2) >= 4)
    kill_server(prefect)

    prefect = begin(home)
    until(lambda: steps(prefect, "rl-1") >= 1)
    orphan = flow_of(prefect)
    kill(psutil.Process(prefect.cluster.worker.pid))
    fate = "its flow went on" if orphan.is_running() else "its flow ended with it"
    saw(f"{table.kills_text(3)} (flow in SFT, server in SFT, worker in RL: {fate})")

    prefect = Prefect(cluster.start(home, owned=True))
    prefect.run("train/tiny", run=RUN, overrides=CHANGES)
    check_done_once(prefect, {"sft": 2, "rl-1": 1})
    starts = [prefect.starts(RUN, label) for label in LABELS]
    ended = prefect.record(RUN)
    prefect.run("train/tiny", run="undisturbed", overrides=CHANGES, force=True)
    for label in LABELS[:-1]:  # a report shows seconds
        assert ended.stages[label].outputs == prefect.record("undisturbed").stages[label].outputs, label
    saw(
        f"attempts {', '.join(f'{n} {c}' for n, c in zip(LABELS, starts, strict=True))}; equal to a run left alone"
    )


def server_gone(home: Path, outage_s: float) -> str:
    """Kill the Prefect server during SFT, restart it later and check the end. Returns what was measured."""
    prefect = Prefect(cluster.start(home, owned=True))
    flow_run = prefect.start("train/tiny", run=RUN, overrides=CHANGES)
    until(lambda: steps(prefect, "sft") >= 8)
    kill_server(prefect)
    before, gone = steps(prefect, "sft"), time.monotonic()
    until(lambda: steps(prefect, "sft") >= before + 20)  # SFT does not wait for the server
    time.sleep(max(0.0, outage_s - (time.monotonic() - gone)))
    start_server(prefect)
    back = time.monotonic()
    # A client doubles its delay with each attempt, so it may ask again minutes after the server is back.
    until(lambda: prefect.read(flow_run)["state_type"] in FINAL_STATES, timeout_s=3600)
    ended = prefect.read(flow_run)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    check_done_once(prefect, {})
    ended_s = time.monotonic() - back
    return f"{table.kills_text(1)} (server); away for {outage_s:g} s; the run ended {ended_s:.0f} s after it was back"


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_prefect_server_gone(home: Path, outage_s: float, saw: Callable[[str], None]) -> None:
    """The Prefect server is killed during SFT and restarted later: SFT continues, the run completes, no work twice."""
    saw(server_gone(home, outage_s))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_prefect_server_gone_100_s(home: Path, saw: Callable[[str], None]) -> None:
    """The same for 100 s, which would end a run under Prefect's default retries."""
    saw(server_gone(home, 100.0))
