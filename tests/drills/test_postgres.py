"""The drill on the database of a site's Prefect server: Postgres is stopped during a run and restarted later."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from flows.commands.follow import start_run
from tasks.shared.artifacts import Store
from tasks.shared.runs.record import RunRecords
from tests.cluster.hosts import API, DATABASE_PORT, Site, daemon, site
from tests.flows.conftest import FINAL_STATES, small
from tests.waiting import until

RUN = "database"
LABELS = ("prepare", "synthesize", "sft", "rl-1", "evaluate-rl", "report")
CHANGES = small(**{"sft.max_steps": 300, "sft.epochs": 800, "sft.checkpoint_every_steps": 5000})
AWAY_S = (
    40.0  # from a minute on, runs count as lost with their hosts, since no heartbeat is recorded for 90 s
)


def events(made: Site, label: str) -> list[str]:
    """The kinds of a stage's events on all hosts."""
    paths = [host.home / "logs" / RUN / f"{label}.log" for host in made.hosts]
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return [json.loads(line)["event"] for line in lines if line.startswith('{"event"')]


def postmaster(directory: Path) -> psutil.Process:
    """The main process of the Postgres with that data directory."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].endswith("/postgres") and str(directory) in words:
            return process
    raise AssertionError(f"no Postgres on {directory}")


def takes_connections(command: list[str]) -> bool:
    ask = [str(Path(command[0]).with_name("pg_isready")), "-h", "127.0.0.1", "-p", str(DATABASE_PORT)]
    return subprocess.run(ask, capture_output=True, check=False).returncode == 0


def state(flow_run: object) -> tuple[str, str]:
    """A flow run's state and message, empty while the server cannot read them."""
    try:
        answer = httpx.get(f"{API}/flow_runs/{flow_run}", timeout=60)
    except httpx.TransportError:  # a server without its database answers late
        return "", ""
    if answer.is_server_error:
        return "", ""
    read = answer.raise_for_status().json()["state"]
    return read["type"], read["message"]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_postgres_restarted(saw: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres of a site's Prefect server is stopped during SFT and restarted: the run completes, no work twice."""
    if os.geteuid() != 0:
        pytest.fail("this drill makes network namespaces, which needs root: run it as root")
    # Not pytest's folder: another session makes it inaccessible to other users, such as Postgres.
    with tempfile.TemporaryDirectory() as folder, site(Path(folder) / "site") as made:
        for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, made.environment[name])
        flow_run = start_run(API, "train/tiny", {"run": RUN, "overrides": CHANGES})
        until(lambda: events(made, "sft").count("progress") > 2)
        database = postmaster(Path(folder) / "site" / "postgres" / "data")
        command, before = database.cmdline(), events(made, "sft").count("progress")
        database.send_signal(signal.SIGQUIT)  # as `pg_ctl stop -m immediate`
        gone = time.monotonic()
        psutil.wait_procs([database], timeout=60)
        assert not takes_connections(command)
        time.sleep(AWAY_S)
        meanwhile = events(made, "sft").count("progress") - before
        assert meanwhile, "SFT waited for the database"
        with daemon(command, dict(os.environ), Path(folder) / "postgres.log", user="postgres"):
            until(lambda: takes_connections(command), timeout_s=120)
            away_s, back = time.monotonic() - gone, time.monotonic()
            until(lambda: state(flow_run)[0] in FINAL_STATES, timeout_s=2400)
            assert state(flow_run)[0] == "COMPLETED", state(flow_run)
            ended_s = time.monotonic() - back
            check_done_once(made)
    saw(
        f"away for {away_s:.0f} s, in which SFT told of {meanwhile} more steps; "
        f"the run ended {ended_s:.0f} s after it was back"
    )


def check_done_once(made: Site) -> None:
    """Every stage was started once over all hosts, and its artifacts are complete."""
    assert {label: events(made, label).count("start") for label in LABELS} == dict.fromkeys(LABELS, 1)
    stages = RunRecords(made.store).read(RUN).stages
    assert set(stages) == set(LABELS)
    for stage in stages.values():
        for ref in stage.outputs.values():
            Store(made.store, cache=made.home / "check").fetch(ref)
