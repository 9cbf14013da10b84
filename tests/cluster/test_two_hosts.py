"""Two hosts with addresses of their own: stages on both, one disconnected during a stage, training over both."""

import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from flows.commands.follow import start_run
from tasks.shared.artifacts import Store
from tasks.shared.runs.record import RunRecord, RunRecords
from tests.cluster.hosts import API, Site, is_online, site
from tests.cluster.network import Host
from tests.flows.conftest import FINAL_STATES, small
from tests.waiting import until

pytestmark = pytest.mark.timeout(3600)  # servers, workers and whole pipelines, beside other work


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.fail("this test makes network namespaces, which needs root: run it as root")
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    with site(tmp_path_factory.mktemp("site")) as made:
        os.environ |= {name: made.environment[name] for name in names}
        yield made


def record(site: Site, run: str) -> RunRecord:
    return RunRecords(site.store).read(run)


def read(flow_run: UUID) -> dict[str, Any]:
    """A flow run. A busy server is asked again, as Prefect's client does."""
    answer = httpx.get(f"{API}/flow_runs/{flow_run}", timeout=60)
    for _ in range(20):
        if not answer.is_server_error:
            break
        time.sleep(1)
        answer = httpx.get(f"{API}/flow_runs/{flow_run}", timeout=60)
    return dict(answer.raise_for_status().json())


def ended(flow_run: UUID) -> dict[str, Any]:
    until(lambda: read(flow_run)["state_type"] in FINAL_STATES, timeout_s=1800)
    return read(flow_run)


def runs_of_workers(site: Site) -> list[dict[str, Any]]:
    """The flow runs of the hosts' workers in the order of their start, each with its `host`."""
    body = {"work_pools": {"name": {"any_": ["gpu"]}}, "sort": "EXPECTED_START_TIME_ASC"}
    found = httpx.post(f"{API}/flow_runs/filter", json=body, timeout=60).raise_for_status().json()
    return [row for row in found if row["start_time"]]


def at(site: Site, run: str, label: str) -> list[Host]:
    """The hosts on which a stage was started."""
    return [host for host in site.hosts if (host.home / "logs" / run / f"{label}.log").exists()]


def steps(host: Host, run: str) -> int:
    """The number of steps that SFT has reported on a host."""
    path = host.home / "logs" / run / "sft.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if '"progress"' in line), default=0)


def test_stages_land_on_both_hosts_one_at_a_time_on_each(
    running: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    started = [start_run(API, "train/tiny", {"run": "whole", "overrides": small()})]
    for seed in (1, 2, 3):  # four stages at once, with the pipeline's first one, for two slots
        alone = {"recipe": "tiny", "run": f"alone-{seed}", "overrides": small(seed=seed)}
        started.append(start_run(API, "prepare/gpu", alone))
    for flow_run in started:
        last = ended(flow_run)
        assert last["state_type"] == "COMPLETED", last["state"]["message"]
    rows = runs_of_workers(running)
    assert len(rows) == len(record(running, "whole").stages) + 3
    assert {host for row in rows for host in at(running, *work_of(row))} == set(running.hosts)
    for host in running.hosts:
        mine = [row for row in rows if at(running, *work_of(row)) == [host]]
        spans = sorted((row["start_time"], row["end_time"]) for row in mine)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), "limit 1 exceeded"
    waits = sorted(seconds(row["start_time"]) - seconds(row["created"]) for row in rows)
    with capsys.disabled():
        print(
            f"\n{len(rows)} stages, waits for a slot: median {waits[len(waits) // 2]:.1f} s, "
            f"longest {waits[-1]:.1f} s"
        )


def test_training_over_both_hosts_equals_training_on_one(
    running: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    spread = {"sft.optimizer.ranks": 2, "sft.optimizer.nodes": 2, "sft.optimizer.zero_stage": 2}
    again = start_run(API, "sft/gpu", {"run": "whole", "into": "spread", "overrides": spread})
    last = ended(again)
    assert last["state_type"] == "COMPLETED", last["state"]["message"]
    (first,), (second,) = at(running, "spread", "sft"), at(running, "spread", "sft-node1")
    assert {first, second} == set(running.hosts)
    part = next(row for row in runs_of_workers(running) if row["name"] == "spread-sft-node1")
    assert part["state_type"] == "COMPLETED", part["state"]["message"]
    one, both = (record(running, run).stages["sft"].metrics for run in ("whole", "spread"))
    assert both["loss"] == pytest.approx(one["loss"], abs=1e-4)
    assert (both["trained_tokens"], both["steps"]) == (one["trained_tokens"], one["steps"])
    assert both["first_loss"] != both["loss"], "nothing was learned"
    with capsys.disabled():
        print(f"\nloss over two hosts {both['loss']}, on one {one['loss']}")


def work_of(row: dict[str, Any]) -> tuple[str, str]:
    """Run and label of a flow run's stage, ordered by a pipeline or by name."""
    order = row["parameters"].get("order")
    return (order["run"], order["label"]) if order else (row["parameters"].get("run", ""), "prepare")


def seconds(moment: str) -> float:
    """Seconds since the epoch of a timestamp of the server."""
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def test_a_disconnected_host_loses_its_stage_to_the_other(
    running: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = small(**{"sft.max_steps": 150, "sft.epochs": 500, "sft.checkpoint_every_steps": 5000})
    flow_run = start_run(API, "train/tiny", {"run": "cut", "overrides": overrides})
    until(lambda: any(steps(host, "cut") > 5 for host in running.hosts))
    (lost,) = at(running, "cut", "sft")
    other = next(host for host in running.hosts if host != lost)
    first = next(row for row in runs_of_workers(running) if work_of(row) == ("cut", "sft"))
    lost.set_link("down")
    try:
        took_s = until(lambda: read(first["id"])["state_type"] == "CRASHED")
        until(lambda: steps(other, "cut") > 0)
    finally:
        lost.set_link("up")
    last = ended(flow_run)
    assert last["state_type"] == "COMPLETED", last["state"]["message"]
    made = record(running, "cut").stages
    until(lambda: is_online(lost) and not stages_at(lost))
    assert record(running, "cut").stages == made, "the host that came back changed the run's record"
    for stage in made.values():
        for ref in stage.outputs.values():
            Store(running.store, cache=running.home / "check").fetch(ref)  # checks every byte
    both = [start_run(API, "prepare/gpu", {"run": "cut", "force": True}) for _ in running.hosts]
    for again in both:
        assert ended(again)["state_type"] == "COMPLETED"
    with capsys.disabled():
        after = read(first["id"])["state"]
        print(
            f"\nmarked crashed {took_s:.0f} s after its link went down; in the end {after['name']}: {after['message']}"
        )


def stages_at(host: Host) -> list[str]:
    """The stages whose processes run on a host."""
    asked = ["ip", "netns", "pids", host.name]
    pids = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
    lines = [Path(f"/proc/{pid}/cmdline") for pid in pids]
    return [text for path in lines if path.exists() and "tasks." in (text := path.read_text())]
