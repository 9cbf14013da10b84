"""Two hosts as network namespaces: the first trains, the second samples, is lost in mid-round and comes back.

As the launcher runs them (tasks/launch/nodes.py), with a process for each host. Needs root and iproute2.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks.shared.contract.addresses import free_port
from tasks.shared.contract.stage import POOL, Rendezvous, StageRequest, StageResult
from tests.cluster.network import Host, network
from tests.integration.rl_world import make_request, make_store

pytestmark = [pytest.mark.timeout(3600), pytest.mark.long]

EXACT = 1e-4
STEPS = 4
GENERATION = {
    "engine": "vllm",
    "placement": "pool",
    "pool": {"nodes": 1},
    "max_sequences": 16,
    "max_prompt_tokens": 64,
    "max_response_tokens": 96,
    "gpu_memory_utilization": 0.1,
}


def test_one_host_samples_for_another_and_may_be_lost(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test makes network namespaces, which needs root: run it as root")
    hosts = tuple(Host(f"tirflow-{n}", f"10.77.0.{n + 1}", tmp_path / f"host{n}") for n in (1, 2))
    inputs = make_store(tmp_path, hidden=128)
    whole = make_request(tmp_path, inputs, steps_per_round=STEPS, probe_bound=EXACT)
    requests = spread(whole, hosts, tmp_path / "shared")
    with network(hosts), stage(hosts[0], requests[0]) as trainer:
        with stage(hosts[1], requests[1]) as sampler:
            until(lambda: steps(hosts[0]) >= 1, trainer, sampler)
            done = steps(hosts[0])
        with stage(hosts[1], requests[1]) as sampler:  # as the launcher orders it again
            until(lambda: steps(hosts[0]) > done + 1, trainer, sampler)
            until(lambda: trainer.poll() is not None, trainer)
            assert trainer.returncode == 0, log(hosts[0])
            assert sampler.wait(120) == 0, log(hosts[1])
    result = StageResult.model_validate_json((hosts[0].home / "result.json").read_text())
    assert set(result.outputs) == {"checkpoint", "rollouts", "trainer_state"}
    assert result.metrics["steps"] == STEPS
    others = StageResult.model_validate_json((hosts[1].home / "result.json").read_text())
    assert not others.outputs, "the first host publishes"
    announced = json.loads((tmp_path / "shared" / POOL / "node-1-server-0.json").read_text())
    assert announced["url"].startswith(f"http://{hosts[1].address}:"), "it listens on its own address alone"


def spread(whole: StageRequest, hosts: tuple[Host, ...], shared: Path) -> list[StageRequest]:
    """The requests of the host that trains and of the one that samples."""
    shared.mkdir()
    rendezvous = Rendezvous(
        nodes=2, node=0, address=hosts[0].address, port=free_port("127.0.0.1"), shared=str(shared), samplers=1
    )
    config = whole.config | {"generation": GENERATION}
    return [
        whole.model_copy(
            update={
                "rendezvous": rendezvous.model_copy(update={"node": node}),
                "config": config,
                "scratch": str(host.home / "scratch"),
            }
        )
        for node, host in enumerate(hosts)
    ]


@contextmanager
def stage(host: Host, request: StageRequest) -> Iterator[subprocess.Popen[bytes]]:
    """The stage in the host's namespace, killed with all it started when the block ends."""
    host.home.mkdir(exist_ok=True)
    path = host.home / "request.json"
    path.write_text(request.model_dump_json())
    # the PID namespace ends with its first process, which ends with this one
    inside = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", host.name]
    inside += ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"]
    command = [*inside, sys.executable, "-m", "tasks.rl.main", str(path)]
    with (host.home / "log").open("ab") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def steps(host: Host) -> int:
    """RL steps that the stage on a host has reported."""
    lines = [line for line in log(host).splitlines() if line.startswith('{"event": "progress"')]
    return max((json.loads(line)["step"] for line in lines), default=0)


def log(host: Host) -> str:
    path = host.home / "log"
    return path.read_text(errors="replace") if path.exists() else ""


def until(condition: Callable[[], Any], *running: subprocess.Popen[bytes]) -> None:
    """Wait for the condition; the processes must run meanwhile."""
    while not condition():
        ended = [process for process in running if process.poll() not in (None, 0)]
        assert not ended, f"{ended[0].args!r} ended with {ended[0].returncode}"
        time.sleep(0.5)
