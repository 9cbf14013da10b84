"""Set up a Prefect server for several machines: pools and queues, deployments, and an end for lost runs.

    PREFECT_API_URL=http://server:4200/api python -m flows.site     # again after every change of prefect.yaml

The deployments are those of prefect.yaml, placed: pipelines in the pool `control`, where they order stages from
workers; stages in the pool `gpu`, in containers, as `<stage>/gpu`. Where TIRFLOW_STORE is an s3:// URI, its bucket is
made too. See docs/operations.md.
"""

import sys
from datetime import timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from upath import UPath

from flows.server.cluster import require_server
from flows.server.deployments import deploy, make_pool, read_deployments
from tasks.recipes import STAGES
from tasks.shared.artifacts.outage import reported_as_outage
from tasks.shared.contract.environment import inherited_environment, prefect_api_url, store_uri

CONTROL, GPUS = "control", "gpu"
QUEUES = {
    "nodes": 1,
    "training": 5,
    "nightly": 10,
}  # of the pool gpu; the lower number goes first: who waits for other hosts has one of its own
SILENCE_S = 90  # three heartbeats
AUTOMATION = "tirflow-lost-runs"
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")}


def set_up(client: SyncPrefectClient) -> None:
    """Create the pools, and create or update queues and the automation."""
    for pool in (CONTROL, GPUS):
        make_pool(pool, client)
    for queue, priority in QUEUES.items():
        try:
            known = client.read_work_queue_by_name(queue, work_pool_name=GPUS)
        except ObjectNotFound:
            client.create_work_queue(queue, priority=priority, work_pool_name=GPUS)
        else:
            client.update_work_queue(known.id, priority=priority)
    automation = _lost_runs()
    for earlier in client.read_automations_by_name(AUTOMATION):
        client.delete_automation(earlier.id)
    client.create_automation(automation)


def make_bucket(store: str) -> None:
    """Create the bucket of an s3:// store, unless it exists.

    ValueError for a name that no bucket can have, OSError if the object store does not answer; one line each.
    """
    if not store.startswith("s3://"):
        return
    bucket = store.removeprefix("s3://").partition("/")[0]
    with reported_as_outage(store):
        files = UPath(store).fs
        try:
            if not files.exists(bucket):
                files.mkdir(bucket)
        except ValueError as error:
            raise ValueError(f"TIRFLOW_STORE = {store}: no bucket can be called '{bucket}'") from error


def placed(document: dict[str, Any], backend: str) -> dict[str, Any]:
    """prefect.yaml for several machines; `backend`: of the stages on their machines, docker or process."""
    stage = {
        "name": GPUS,
        "entrypoint": "flows.worker.stage",
        "description": "A stage of a pipeline elsewhere",
    }
    node = {"name": GPUS, "entrypoint": "flows.worker.node", "description": "A host's part of a stage"}
    pool = {"name": GPUS, "work_queue_name": "training", "job_variables": _variables(backend)}
    entries = [_place(entry, pool) for entry in document["deployments"]]
    of_workers = [{**stage, "work_pool": pool}, {**node, "work_pool": {**pool, "work_queue_name": "nodes"}}]
    return {**document, "deployments": [*entries, *of_workers]}


def _place(entry: dict[str, Any], stages: dict[str, Any]) -> dict[str, Any]:
    """A deployment in its pool: a single stage runs on the worker, a pipeline orders its stages from workers."""
    if entry["entrypoint"].removeprefix("flows.stages.") in STAGES:
        return {**entry, "name": GPUS, "work_pool": stages}
    queue = "nightly" if "schedules" in entry else "training"
    variables = _variables("workers", TIRFLOW_STAGE_QUEUE=queue)
    return {**entry, "work_pool": {"name": CONTROL, "job_variables": variables}}


def _variables(backend: str, **environment: str) -> dict[str, Any]:
    """A flow run's environment. Its process may outlive the worker, so its output must not be a pipe."""
    return {"env": {"TIRFLOW_BACKEND": backend, **environment}, "stream_output": False}


def _lost_runs() -> AutomationCore:
    """A run whose heartbeat stops is marked Crashed: its host or its network is gone."""
    return AutomationCore(
        name=AUTOMATION,
        description=f"A run that was not heard of for {SILENCE_S} s is lost with its host",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *ENDS},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE_S),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"not heard of for {SILENCE_S} s")],
    )


def main(arguments: list[str]) -> int:
    """The command; its exit code. A user's mistake ends in one line."""
    backend = (arguments or ["docker"])[0]
    if backend not in ("docker", "process") or len(arguments) > 1:
        sys.stderr.write("usage: python -m flows.site [docker | process]\n")
        return 2
    try:
        require_server(prefect_api_url())
        make_bucket(store_uri())
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    with get_client(sync_client=True) as client:
        set_up(client)
        try:
            sys.stdout.write(deploy(placed(read_deployments(), backend), client, inherited_environment()))
        except ValueError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
