"""A stage over several hosts: the first orders the others, each as a run of `node/gpu`, and meets them once they run.

Whether the work was done before is known to the first host alone, so nobody waits for what is cached. When one host
ends, or is lost, all of them end.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Cancelling, State

from tasks.launch.backends.choose import make_backend, num_nodes, num_samplers
from tasks.launch.backends.execute import StageFailed, StageLost, StageStopped, execute
from tasks.launch.progress import ProgressReport
from tasks.launch.state import RunState
from tasks.recipes import stage_of
from tasks.shared.contract.addresses import address_towards, free_port
from tasks.shared.contract.environment import home, prefect_api_url, shared_directory, stage_address
from tasks.shared.contract.stage import POOL, Rendezvous, StageRequest

DEPLOYMENT, QUEUE = "node/gpu", "nodes"
GATHER_S = 3600.0  # how long the first host waits for the others with its slot taken
GRACE_S = 60.0  # how long the others may take to end after it
POLL_S = 1.0
MOST_REPLACED = 10  # hosts that sample, in one stage


class Others:
    """The runs on the other hosts."""

    def __init__(self) -> None:
        self.runs: dict[int, UUID] = {}  # by node
        self._samplers: range = range(0)
        self._order_again: Callable[[int], UUID] | None = None
        self._replaced = 0

    def replace_samplers(self, samplers: range, order: Callable[[int], UUID]) -> None:
        """Let hosts that only sample be lost: `order` gives a node of them to another host."""
        self._samplers, self._order_again = samplers, order

    def ended(self) -> State[Any] | None:
        """The state of one that failed, if the stage needs it."""
        for node, run in self.runs.items():
            state = _state(run)
            ended = state is not None and state.is_final() and not state.is_completed()
            if ended and not (state and self._can_replace(node, state)):
                return state
        return None

    def have_failed(self) -> bool:
        """True if the stage cannot go on. A host that only sampled and was lost is ordered anew meanwhile."""
        for node, run in list(self.runs.items()):
            state = _state(run)
            if state is not None and self._can_replace(node, state):
                assert self._order_again is not None
                self._replaced += 1
                self.runs[node] = self._order_again(node)
        return self.ended() is not None

    def _can_replace(self, node: int, state: State[Any]) -> bool:
        return node in self._samplers and state.is_crashed() and self._replaced < MOST_REPLACED

    def are_running(self) -> bool:
        """True if all of them run."""
        return all((state := _state(run)) is not None and state.is_running() for run in self.runs.values())

    def wait(self) -> None:
        """Let them end by themselves: with the first host's ranks theirs are done."""
        deadline = time.monotonic() + GRACE_S
        while not all((s := _state(run)) is not None and s.is_final() for run in self.runs.values()):
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_S)

    def cancel(self) -> None:
        """End those that have not ended."""
        with get_client(sync_client=True) as client:
            for run in self.runs.values():
                state = _state(run)
                if state is None or not state.is_final():
                    client.set_flow_run_state(run, Cancelling())


@contextmanager
def gathered(request: StageRequest, label: str, fresh: bool) -> Iterator[tuple[StageRequest, Others]]:
    """The request as this host executes it, and the other hosts, which run; for a stage of one host just the request.

    What the hosts share of earlier attempts is kept, unless `fresh`, until the block ends well. Raises StageFailed,
    or StageLost where another host was lost.
    """
    nodes, others = num_nodes(stage_of(request)[1]), Others()
    if nodes == 1:
        yield request, others
        return
    shared = _shared(request)
    if fresh:
        shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(shared / POOL, ignore_errors=True)  # servers of an earlier attempt
    address = stage_address() or address_towards(urlsplit(prefect_api_url() or "").hostname or "127.0.0.1")
    meeting = Rendezvous(
        nodes=nodes,
        node=0,
        address=address,
        port=free_port(address),
        shared=str(shared),
        samplers=num_samplers(stage_of(request)[1]),
    )
    first = request.model_copy(update={"meeting": meeting})
    try:
        _order(others, first, label)
        yield first, others
        others.wait()
    except StageFailed as error:  # also when it was stopped because another host had ended
        reason = None if RunState().is_over() else _reason(others.ended())
        if reason is None or (not isinstance(error, StageStopped) and not isinstance(reason, StageLost)):
            raise
        raise reason from error
    finally:
        others.cancel()
    shutil.rmtree(shared, ignore_errors=True)


def join(request: StageRequest, label: str, first: UUID) -> None:
    """Do this host's part of a stage; `first`: the flow run on the first host, with which this one ends."""
    assert request.meeting is not None
    name = f"{Path(request.scratch).name}-node{request.meeting.node}"
    here = request.model_copy(update={"scratch": str(home() / "scratch" / name)})
    log_path = home() / "logs" / request.run / f"{label}.log"
    own, around = RunState(), RunState(first)
    backend = make_backend()
    backend.identity(*stage_of(request))  # an image that is missing is told in one line
    report = ProgressReport(f"{request.run}-{label}", log_path)
    execute(here, backend, log_path, report, lambda: own.is_over() or around.is_over(), fresh=True)


def _shared(request: StageRequest) -> Path:
    try:
        return shared_directory() / Path(request.scratch).name
    except ValueError as error:
        raise StageFailed(str(error)) from None


def _order(others: Others, first: StageRequest, label: str) -> None:
    """Order the other hosts; return once all of them run."""
    meeting = first.meeting
    assert meeting is not None

    logger, around = get_run_logger(), RunState().flow_run  # another thread orders again, and knows neither

    def order(node: int) -> UUID:
        logger.info("%s: orders a host as node %d", label, node)
        return _order_node(first, label, node, around)

    others.replace_samplers(range(meeting.trainers, meeting.nodes), order)
    for node in range(1, meeting.nodes):
        others.runs[node] = order(node)
    get_run_logger().info("%s: waits for %d more hosts", label, len(others.runs))
    deadline = time.monotonic() + GATHER_S
    while not others.are_running():
        if (reason := _reason(others.ended())) is not None:
            raise reason
        if RunState().is_over():
            raise StageStopped(f"stage '{first.stage}' was stopped while it waited for other hosts")
        if time.monotonic() > deadline:
            raise StageFailed(
                f"stage '{first.stage}': {len(others.runs)} more hosts were not free within {GATHER_S:.0f} s; "
                "two stages over several hosts may be waiting for each other: run one at a time"
            )
        time.sleep(POLL_S)


def _order_node(first: StageRequest, label: str, node: int, around: UUID | None) -> UUID:
    """Order one host; its flow run. `around`: the run on the first host."""
    assert first.meeting is not None
    here = first.model_copy(update={"meeting": first.meeting.model_copy(update={"node": node})})
    parameters = {
        "request": here.model_dump(mode="json"),
        "label": f"{label}-node{node}",
        "first": around,
    }
    name = f"{first.run}-{label}-node{node}"
    try:
        run = run_deployment(
            DEPLOYMENT, parameters=parameters, flow_run_name=name, timeout=0, work_queue_name=QUEUE
        )
    except ObjectNotFound:
        raise StageFailed(
            f"stage '{first.stage}': several hosts (optimizer.nodes, generation.pool.nodes) need a server with the "
            f"deployment {DEPLOYMENT}: python -m flows.site, docs/operations.md"
        ) from None
    assert isinstance(run, FlowRun)  # a coroutine only where an event loop calls
    return run.id


def _reason(state: State[Any] | None) -> StageFailed | None:
    """What another host's end means for the stage; None while all go on."""
    if state is None:
        return None
    said = state.message or state.name
    return (
        StageLost(f"another host was lost: {said}")
        if state.is_crashed()
        else StageFailed(f"on another host: {said}")
    )


def _state(run: UUID) -> State[Any] | None:
    """The state of a run; None while the server does not answer."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(run).state
    except httpx.HTTPError:
        return None
