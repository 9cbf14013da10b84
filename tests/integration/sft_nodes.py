"""SFT over two hosts, both on this machine: their requests, and a check that the training equals that on one."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.shared.artifacts import Store
from tasks.shared.contract.addresses import free_port
from tasks.shared.contract.stage import Rendezvous, StageRequest, StageResult
from tests.integration.stages import read_lines

ADDRESS = "127.0.0.1"


def spread(whole: StageRequest, scratch: Path, shared: Path) -> list[StageRequest]:
    """The requests of two hosts with a rank each, whose scratch directories lie below `scratch`."""
    config: dict[str, Any] = json.loads(json.dumps(whole.config))
    config["sft"]["optimizer"] |= {"ranks": 2, "nodes": 2}
    rendezvous = Rendezvous(nodes=2, node=0, address=ADDRESS, port=free_port(ADDRESS), shared=str(shared))
    return [
        whole.model_copy(
            update={
                "rendezvous": rendezvous.model_copy(update={"node": node}),
                "config": config,
                "scratch": str(scratch / f"node-{node}"),
            }
        )
        for node in (0, 1)
    ]


def require_same_training(store: str, one: StageResult, both: list[StageResult]) -> None:
    """Check that two hosts did the steps of one and that only the first published."""
    alone, together = (_steps(store, result) for result in (one, both[0]))
    assert len(together) == len(alone) > 2
    for key in ("loss", "grad_norm"):
        assert [step[key] for step in together] == pytest.approx([step[key] for step in alone], rel=1e-4), key
    assert not both[1].outputs, "the first host publishes"


def saved_parts(shared: Path) -> int:
    """The number of parts of optimizer states in the shared directory: one of each host, in its last checkpoint."""
    return len(list((shared / "checkpoints").glob("step-*/*optim_states.pt")))


def _steps(store: str, result: StageResult) -> list[dict[str, float]]:
    return read_lines(Store(store).fetch(result.outputs["checkpoint"]) / "metrics.jsonl")
