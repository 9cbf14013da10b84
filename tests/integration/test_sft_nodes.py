"""SFT over two hosts: each starts its share of the ranks, they meet at an address, and it is the same training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.shared.artifacts import Store
from tasks.shared.execution.addresses import address_towards, free_port, interface_of
from tasks.shared.stage import Meeting, StageRequest, StageResult
from tests.integration.sft_world import make_request

ADDRESS = "127.0.0.1"


def start(root: Path, request: StageRequest) -> subprocess.Popen[bytes]:
    """A host's part, as its launcher starts it."""
    root.mkdir(exist_ok=True)
    (root / "request.json").write_text(request.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.sft.main", str(root / "request.json")],
        stdout=subprocess.DEVNULL,
        stderr=(root / "stderr.txt").open("w"),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def steps_of(store: str, root: Path) -> list[dict[str, float]]:
    result = StageResult.model_validate_json((root / "result.json").read_text())
    path = Store(store).fetch(result.outputs["checkpoint"]) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_hosts_do_the_steps_of_one(tmp_path: Path) -> None:
    whole = make_request(tmp_path, zero_stage=2)
    assert start(tmp_path / "whole", whole).wait() == 0
    one = steps_of(whole.store, tmp_path / "whole")

    shared = tmp_path / "shared"
    config = json.loads(json.dumps(whole.config))
    config["sft"]["optimizer"] |= {"ranks": 2, "nodes": 2}
    meeting = Meeting(nodes=2, node=0, address=ADDRESS, port=free_port(ADDRESS), shared=str(shared))
    hosts = []
    for node in (0, 1):
        here = {"meeting": meeting.model_copy(update={"node": node}), "config": config}
        scratch = str(tmp_path / f"scratch-{node}")
        hosts.append(start(tmp_path / f"host-{node}", whole.model_copy(update={**here, "scratch": scratch})))
    codes = [host.wait() for host in hosts]
    said = [(tmp_path / f"host-{node}" / "stderr.txt").read_text()[-2000:] for node in (0, 1)]
    assert codes == [0, 0], said
    both = steps_of(whole.store, tmp_path / "host-0")
    assert len(both) == len(one) > 2
    for key in ("loss", "grad_norm"):
        assert [step[key] for step in both] == pytest.approx([step[key] for step in one], rel=1e-4), key
    second = StageResult.model_validate_json((tmp_path / "host-1" / "result.json").read_text())
    assert not second.outputs, "the first host publishes"
    saved = [path.name for path in (shared / "checkpoints").glob("step-*/*optim_states.pt")]
    assert len(saved) == 2, "what the hosts resume from holds the part of each"


def test_a_host_knows_its_address_and_interface() -> None:
    assert interface_of(address_towards(ADDRESS)) == "lo"
    with pytest.raises(ValueError, match=r"no network interface of this host has the address 192\.0\.2\.1"):
        interface_of("192.0.2.1")
