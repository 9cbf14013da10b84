"""Two hosts with addresses of their own: stages land on both, one is cut off in mid-stage, training spans both."""

import itertools
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from flows.follow import start_run
from tasks.shared.runs import RunRecord, RunRecords
from tests.cluster.hosts import API, Host, Site, site
from tests.cluster.waiting import until
from tests.flows.conftest import FINAL_STATES, small

pytestmark = pytest.mark.timeout(900)  # servers, workers and whole pipelines
LOST_WITHIN_S = 120.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.fail("this test makes network namespaces and that takes root: run it as root")
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    with site(tmp_path_factory.mktemp("site")) as made:
        os.environ |= {name: made.environment[name] for name in names}
        yield made


def record(site: Site, run: str) -> RunRecord:
    return RunRecords(site.store).read(run)


def read(flow_run: UUID) -> dict[str, Any]:
    """A flow run; a server that is busy is asked again, as Prefect's own client does."""
    answer = httpx.get(f"{API}/flow_runs/{flow_run}", timeout=60)
    for _ in range(20):
        if not answer.is_server_error:
            break
        time.sleep(1)
        answer = httpx.get(f"{API}/flow_runs/{flow_run}", timeout=60)
    return dict(answer.raise_for_status().json())


def ended(flow_run: UUID) -> dict[str, Any]:
    until(lambda: read(flow_run)["state_type"] in FINAL_STATES, timeout_s=600)
    return read(flow_run)


def stage_runs(run: str) -> list[dict[str, Any]]:
    """The flow runs on workers that carried out stages of a run, in the order of their start."""
    body = {"flow_runs": {"name": {"like_": f"{run}-"}}, "sort": "EXPECTED_START_TIME_ASC"}
    found = httpx.post(f"{API}/flow_runs/filter", json=body, timeout=60).json()
    return [row for row in found if row["parameters"].get("order", {}).get("run") == run]


def at(site: Site, run: str, label: str) -> list[Host]:
    """The hosts on which a stage was started."""
    return [host for host in site.hosts if (host.home / "logs" / run / f"{label}.log").exists()]


def steps(host: Host, run: str) -> int:
    """How many steps SFT has reported on a host."""
    path = host.home / "logs" / run / "sft.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if '"progress"' in line), default=0)


def test_stages_land_on_both_hosts_one_at_a_time_on_each(running: Site) -> None:
    runs = [
        start_run(API, "train/tiny", {"run": name, "overrides": small(seed=seed)})
        for seed, name in enumerate(("left", "right"))
    ]
    for flow_run in runs:
        last = ended(flow_run)
        assert last["state_type"] == "COMPLETED", last["state"]["message"]
    rows = stage_runs("left") + stage_runs("right")
    hosts = {_landed(running, row) for row in rows}
    assert hosts == set(running.hosts)
    for host in running.hosts:
        mine = sorted((row["start_time"], row["end_time"]) for row in rows if _landed(running, row) == host)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(mine)), "limit 1 exceeded"
    waits = sorted(_seconds(row["start_time"]) - _seconds(row["created"]) for row in rows)
    print(
        f"waits for a slot: median {waits[len(waits) // 2]:.1f} s, longest {waits[-1]:.1f} s, {len(rows)} stages"
    )


def _landed(site: Site, row: dict[str, Any]) -> Host:
    order = row["parameters"]["order"]
    return at(site, order["run"], order["label"])[0]


def _seconds(moment: str) -> float:
    """Seconds since the epoch of a moment as the server writes it."""
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def test_a_host_that_is_cut_off_loses_its_stage_to_the_other(running: Site) -> None:
    overrides = small(**{"sft.max_steps": 150, "sft.epochs": 500, "sft.checkpoint_every_steps": 5000})
    flow_run = start_run(API, "train/tiny", {"run": "cut", "overrides": overrides})
    until(lambda: any(steps(host, "cut") > 5 for host in running.hosts), timeout_s=300)
    lost = next(host for host in running.hosts if steps(host, "cut") > 5)
    other = next(host for host in running.hosts if host != lost)
    first = next(row for row in stage_runs("cut") if row["parameters"]["order"]["stage"] == "sft")
    lost.set_link("down")
    down = time.monotonic()
    try:
        until(lambda: read(first["id"])["state_type"] == "CRASHED", timeout_s=LOST_WITHIN_S)
        print(f"marked crashed {time.monotonic() - down:.0f} s after the link went down")
        until(lambda: steps(other, "cut") > 0)
    finally:
        lost.set_link("up")
    last = ended(flow_run)
    assert last["state_type"] == "COMPLETED", last["state"]["message"]
    before = record(running, "cut")
    time.sleep(15)  # the host that came back has met the server again
    assert read(first["id"])["state_type"] in ("CRASHED", "FAILED")  # its host has stopped the stage
    assert record(running, "cut").stages == before.stages
    again = start_run(API, "prepare/gpu", {"run": "cut", "force": True})
    assert ended(again)["state_type"] == "COMPLETED"
