"""SFT over two hosts: two launchers on this machine, each with a container on the host's network."""

from pathlib import Path

import pytest

from tasks.shared.contract.stage import StageRequest, StageResult
from tests.containers.conftest import World
from tests.integration.sft_nodes import require_same_training, saved_parts, spread
from tests.integration.sft_world import make_request

pytestmark = pytest.mark.timeout(600)


def result_of(request: StageRequest) -> StageResult:
    return StageResult.model_validate_json((Path(request.scratch) / "result.json").read_text())


def test_two_containers_do_the_steps_of_one(world: World) -> None:
    scratch, shared = world.home / "scratch", world.home / "shared"
    request = make_request(world.home / "nodes", zero_stage=2, store_dir=world.home / "store")
    whole = request.model_copy(update={"scratch": str(scratch / "nodes-whole")})
    assert world.launch(whole).wait() == 0
    parts = spread(whole, scratch, shared)
    launchers = [world.launch(part) for part in parts]
    for part in parts:
        container = world.wait_for_container(part)
        assert container.attrs["HostConfig"]["NetworkMode"] == "host"
    assert [launcher.wait() for launcher in launchers] == [0, 0]
    require_same_training(whole.store, result_of(whole), [result_of(part) for part in parts])
    assert saved_parts(shared) == 2, "what the hosts resume from holds the part of each"
    assert [world.left(part) for part in parts] == [0, 0]
