"""Deployments on a real server: schedules that users changed, overrides of a deployment's own."""

import os
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.schedules import CronSchedule

from flows.server import cluster, deployments
from tests.flows.conftest import Prefect

NAME = "nightly/moved"


def crons(client: SyncPrefectClient) -> list[tuple[str, bool]]:
    """When the nightly evaluation runs: cron, and whether it is active."""
    found = client.read_deployment_by_name(NAME).schedules
    return [(schedule.schedule.cron, schedule.active) for schedule in found]


def test_a_schedule_that_was_changed_on_the_server_stays_so(prefect: Prefect) -> None:
    """Moved and paused over a deploy, then removed, then replaced when the file itself changed."""
    whole = deployments.read_deployments()
    nightly = next(entry for entry in whole["deployments"] if "schedules" in entry) | {"name": "moved"}
    environment = os.environ | cluster.settings(prefect.home, prefect.cluster.port)

    def deploy(**changes: Any) -> None:
        # the other deployments only take time
        deployments.deploy({**whole, "deployments": [nightly | changes]}, client, environment)

    with SyncPrefectClient(prefect.cluster.api_url) as client:
        deploy()
        assert crons(client) == [("0 3 * * *", True)]
        deployment = client.read_deployment_by_name(NAME)
        moved = CronSchedule(cron="30 4 * * *", timezone="UTC")
        client.update_deployment_schedule(
            deployment.id, deployment.schedules[0].id, active=False, schedule=moved
        )
        deploy()
        assert crons(client) == [("30 4 * * *", False)]
        client.delete_deployment_schedule(deployment.id, client.read_deployment_by_name(NAME).schedules[0].id)
        deploy()
        assert crons(client) == []
        deploy(schedules=[{"cron": "0 5 * * *", "timezone": "UTC"}])
        assert crons(client) == [("0 5 * * *", True)]
        client.delete_deployment(deployment.id)


def test_a_pool_that_was_changed_on_the_server_stays_so(prefect: Prefect) -> None:
    with SyncPrefectClient(prefect.cluster.api_url) as client:
        deployments.make_pool("changed", client)
        client.update_work_pool("changed", WorkPoolUpdate(is_paused=True, concurrency_limit=1))
        deployments.make_pool("changed", client)
        pool = client.read_work_pool("changed")
        client.delete_work_pool("changed")
    assert (pool.is_paused, pool.concurrency_limit) == (True, 1)


def test_a_runs_overrides_add_to_those_of_its_deployment(prefect: Prefect) -> None:
    """The deployment's own override names an unknown key: the run fails on it although it got another override."""
    train = next(d for d in prefect.filter("deployments", {}) if d["name"] == "tiny_text")
    kept = ("flow_id", "entrypoint", "work_pool_name", "parameter_openapi_schema", "pull_steps")
    own = {"recipe": "tiny", "overrides": {"rl": {"optimizer": {"no_such_key": 1}}}}
    entry = {key: train[key] for key in kept} | {"name": "own", "parameters": own}
    prefect.request("POST", "deployments/", json=entry)
    failed = prefect.wait(prefect.start("train/own", run="own", overrides={"seed": 5}))
    assert "unknown key 'rl.optimizer.no_such_key'" in failed["state"]["message"]
