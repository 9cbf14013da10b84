"""Access of a stage in a container: a network only if recipe or store need one, directories that it writes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.launch.backends import docker
from tasks.launch.backends.access import mounts_of, needs_network, user_of_stages
from tasks.launch.backends.docker import role_of
from tasks.recipes import STAGES, load_recipe
from tasks.rl.spec import RL, RlStage
from tasks.shared.contract.environment import container_environment, server_environment, stage_environment
from tasks.shared.contract.stage import Rendezvous, StageRequest


def request(stage: str, tmp_path: Path, store: str = "", **overrides: Any) -> StageRequest:
    config = load_recipe("tiny", overrides).for_stage(stage).model_dump(mode="json")
    scratch = tmp_path / "scratch" / stage
    return StageRequest(
        stage=stage,
        run="demo",
        config=config,
        inputs={},
        seed=0,
        store=store or str(tmp_path / "store"),
        scratch=str(scratch),
        files=(str(tmp_path / "given"), str(tmp_path / "absent")),
    )


@pytest.mark.parametrize("stage", ["prepare", "synthesize", "sft", "rl", "evaluate", "report"])
def test_only_an_object_store_needs_a_network(tmp_path: Path, stage: str) -> None:
    assert not needs_network(request(stage, tmp_path))
    assert needs_network(request(stage, tmp_path, store="s3://bucket/tirflow"))


def test_a_hub_model_and_a_tracking_server_need_one(tmp_path: Path) -> None:
    hub = {"model.source": "hub", "model.id": "someone/model", "model.revision": "0" * 40}
    assert needs_network(request("prepare", tmp_path, **hub))
    assert not needs_network(request("sft", tmp_path, **hub)), "the model comes as an artifact"
    assert needs_network(request("sft", tmp_path, **{"sft.sinks": ["wandb"]}))


def test_a_stage_writes_to_scratch_and_store_and_reads_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIRFLOW_HOME", str(tmp_path / "home"))
    (tmp_path / "given").write_text("problems")
    local = {mount["Target"]: mount["ReadOnly"] for mount in mounts_of(request("prepare", tmp_path))}
    assert local == {
        str(tmp_path / "scratch" / "prepare"): False,
        str(tmp_path / "store"): False,
        str(tmp_path / "given"): True,
    }
    elsewhere = mounts_of(request("sft", tmp_path, store="s3://bucket/tirflow"))
    assert str(tmp_path / "home" / "cache") in {mount["Source"] for mount in elsewhere}


def test_a_stage_over_several_hosts_writes_to_shared_scratch(tmp_path: Path) -> None:
    shared = str(tmp_path / "shared" / "sft")
    rendezvous = Rendezvous(nodes=2, node=1, address="10.0.0.1", port=29500, shared=shared)
    spread = request("sft", tmp_path).model_copy(update={"rendezvous": rendezvous})
    assert {mount["Source"] for mount in mounts_of(spread) if not mount["ReadOnly"]} == {
        shared,
        str(tmp_path / "scratch" / "sft"),
        str(tmp_path / "store"),
    }


def test_the_engine_decides_the_image() -> None:
    embedded, vllm = load_recipe("tiny"), load_recipe("tiny", {"generation.engine": "vllm"})
    roles = {spec.name: role_of(spec, spec.config.of(vllm)) for spec in STAGES.values()}
    assert roles.pop("rl") == "rl" and roles.pop("evaluate") == "inference"
    assert set(roles.values()) == {role_of(RL, RlStage.of(embedded))} == {"train"}


def image(accelerator: str) -> Any:
    return SimpleNamespace(labels={"tirflow.accelerator": accelerator, "tirflow.packages": "0123"})


def test_a_gpu_stage_gets_the_network_between_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request("sft", tmp_path)
    monkeypatch.setattr(docker, "INFINIBAND", tmp_path / "infiniband")
    assert docker._bounds(asked, image("cuda"))["devices"] is None
    (tmp_path / "infiniband").mkdir()
    devices = docker._bounds(asked, image("cuda"))["devices"]
    assert devices == [f"{tmp_path}/infiniband:{tmp_path}/infiniband:rwm"]
    assert docker._bounds(asked, image("cpu"))["devices"] is None


def test_what_vllm_compiles_outlives_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIRFLOW_HOME", str(tmp_path))
    first, second = (docker._compiled(image("cuda")) for _ in range(2))
    assert first == second == tmp_path / "compiled" / "0123"
    assert first.stat().st_uid == int(user_of_stages().split(":")[0])


def test_nccl_settings_of_the_host_reach_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_IB_HCA", "mlx5")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    asked = load_recipe("tiny").for_stage("rl")
    for environment in (
        container_environment(),
        stage_environment((), asked),
        server_environment(1, "", "", ""),
    ):
        assert environment["NCCL_IB_HCA"] == "mlx5"
        assert "SOME_TOKEN" not in environment
