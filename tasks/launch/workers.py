"""Run a stage on a worker of the stage pool: order the deployment `stage/gpu`, and follow it to its end.

A parent that is retried follows the run that it ordered before, and a cancelled parent cancels it. A run whose host was
lost (Crashed) is ordered again and lands on another host.
"""

import hashlib
import json
import time
from typing import Any
from uuid import UUID

from prefect import task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger
from prefect.states import Cancelling, State

from tasks.launch.backends.attempt import StageFailed, StageLost
from tasks.launch.state import RunState, state_of
from tasks.shared.contract.environment import stage_queue

DEPLOYMENT = "stage/gpu"
ATTEMPTS = 3  # each on another host
POLL_S = 1.0
LIVING = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]


def run_on_worker(order: dict[str, Any], stage: str, label: str) -> None:
    """Return once a worker has run the ordered stage. Raises StageFailed with its message, or StageLost."""
    _order.with_options(name=stage, task_run_name=label)(order, label)


@task
def _order(order: dict[str, Any], label: str) -> None:
    tag = "order:" + hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()[:16]
    logger = get_run_logger()
    for attempt in range(1, ATTEMPTS + 1):
        flow_run = _living(tag)
        if flow_run is None:
            created = run_deployment(
                DEPLOYMENT,
                parameters={"order": order},
                flow_run_name=f"{order['run']}-{label}",
                tags=[tag],
                timeout=0,
                work_queue_name=stage_queue(),
            )
            assert isinstance(created, FlowRun)  # a coroutine only where an event loop calls
            flow_run = created.id
        else:
            logger.info("%s: following the run that an earlier attempt ordered", label)
        state = _follow(flow_run)
        if state.is_completed():
            return
        if not state.is_crashed():
            raise StageFailed(state.message or f"stage '{label}': its run ended as {state.name}")
        logger.warning("%s: its worker or host was lost (attempt %d of %d)", label, attempt, ATTEMPTS)
    raise StageLost(f"stage '{label}': lost with its worker {ATTEMPTS} times; look at the hosts of pool gpu")


def _living(tag: str) -> UUID | None:
    """Return the flow run of an order that has not ended, or None."""
    living = FlowRunFilterState(type=FlowRunFilterStateType(any_=LIVING))
    chosen = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]), state=living)
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=chosen, limit=1)
    return found[0].id if found else None


def _follow(flow_run: UUID) -> State[Any]:
    """Return the final state of a flow run. Cancels it if this run is cancelled or interrupted."""
    parent = RunState()
    try:
        while True:
            state = state_of(flow_run)
            if state is not None and state.is_final():
                return state
            if parent.is_over():
                raise StageFailed("the run was cancelled")
            time.sleep(POLL_S)
    except BaseException:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run, Cancelling())
        raise
