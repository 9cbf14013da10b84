"""Deployments on a real server: schedules that people changed, overrides that a deployment has of its own."""

from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.schedules import CronSchedule

from flows import cluster, deployments
from tests.flows.conftest import Prefect

NAME = "nightly/nightly"


def crons(client: SyncPrefectClient) -> list[tuple[str, bool]]:
    """When the nightly evaluation runs: cron, and whether it is active."""
    found = client.read_deployment_by_name(NAME).schedules
    return [(schedule.schedule.cron, schedule.active) for schedule in found]


def test_a_schedule_that_was_changed_on_the_server_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved and paused, past down, up and deploy; then cleared; then anew, since the file itself says otherwise."""
    whole = deployments.read_deployments()
    nightly = next(entry for entry in whole["deployments"] if "schedules" in entry)
    document: dict[str, Any] = {**whole, "deployments": [nightly]}  # the others only take time
    monkeypatch.setattr(deployments, "read_deployments", lambda: document)
    running = cluster.start(tmp_path, owned=True, port=0)
    try:
        with SyncPrefectClient(running.api_url) as client:
            assert crons(client) == [("0 3 * * *", True)]
            deployment = client.read_deployment_by_name(NAME)
            moved = CronSchedule(cron="30 4 * * *", timezone="UTC")
            client.update_deployment_schedule(
                deployment.id, deployment.schedules[0].id, active=False, schedule=moved
            )
        cluster.stop(running)
        running = cluster.start(tmp_path, owned=True, port=0)
        with SyncPrefectClient(running.api_url) as client:
            assert crons(client) == [("30 4 * * *", False)]
            client.delete_deployment_schedule(
                deployment.id, client.read_deployment_by_name(NAME).schedules[0].id
            )
            cluster.deploy(tmp_path, running.port)
            assert crons(client) == []
            document["deployments"] = [nightly | {"schedules": [{"cron": "0 5 * * *", "timezone": "UTC"}]}]
            cluster.deploy(tmp_path, running.port)
            assert crons(client) == [("0 5 * * *", True)]
    finally:
        cluster.stop(running)


def test_a_runs_overrides_add_to_those_of_its_deployment(prefect: Prefect) -> None:
    """The deployment's own names a key that no recipe has: the run says so, though it was given another override."""
    train = next(d for d in prefect.filter("deployments", {}) if d["name"] == "tiny_text")
    kept = ("flow_id", "entrypoint", "work_pool_name", "parameter_openapi_schema", "pull_steps")
    own = {"recipe": "tiny", "overrides": {"rl": {"optimizer": {"no_such_key": 1}}}}
    entry = {key: train[key] for key in kept} | {"name": "own", "parameters": own}
    prefect.request("POST", "deployments/", json=entry)
    failed = prefect.wait(prefect.start("train/own", run="own", overrides={"seed": 5}))
    assert "unknown key 'rl.optimizer.no_such_key'" in failed["state"]["message"]
