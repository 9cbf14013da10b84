"""SFT over two hosts: each starts its share of the ranks, they meet at an address, and the training is the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.shared.contract.addresses import address_towards, interface_of
from tasks.shared.contract.stage import StageRequest
from tests.integration.sft_nodes import ADDRESS, require_same_training, saved_parts, spread
from tests.integration.sft_world import make_request
from tests.integration.stages import result_of


def start(root: Path, request: StageRequest) -> subprocess.Popen[bytes]:
    """The process of a host, as its launcher starts it."""
    root.mkdir(exist_ok=True)
    (root / "request.json").write_text(request.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.sft.main", str(root / "request.json")],
        stdout=subprocess.DEVNULL,
        stderr=(root / "stderr.txt").open("w"),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.long  # tests/containers has it with hosts in containers
def test_two_hosts_do_the_steps_of_one(tmp_path: Path) -> None:
    whole = make_request(tmp_path, zero_stage=2)
    assert start(tmp_path / "whole", whole).wait() == 0
    roots = [tmp_path / f"host-{node}" for node in (0, 1)]
    requests = spread(whole, tmp_path / "scratch-of", tmp_path / "shared")
    hosts = [start(root, request) for root, request in zip(roots, requests, strict=True)]
    codes = [host.wait() for host in hosts]
    assert codes == [0, 0], [(root / "stderr.txt").read_text()[-2000:] for root in roots]
    require_same_training(whole.store, result_of(tmp_path / "whole"), [result_of(root) for root in roots])
    assert saved_parts(tmp_path / "shared") == 2, "what the hosts resume from holds the part of each"


def test_a_host_knows_its_address_and_interface() -> None:
    assert interface_of(address_towards(ADDRESS)) == "lo"
    with pytest.raises(ValueError, match=r"no network interface of this host has the address 192\.0\.2\.1"):
        interface_of("192.0.2.1")
