"""Run a stage over several hosts: the first orders the others, each as a run of `node/gpu`, and waits until they run.

Only the first host knows whether the result is cached, so no host waits for cached work. When one host ends or is lost,
all of them end.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Cancelling, State

from tasks.launch.backends.attempt import StageFailed, StageLost, StageStopped, run_on_backend
from tasks.launch.backends.choose import make_backend, num_nodes, num_samplers
from tasks.launch.progress import ProgressReport
from tasks.launch.state import RunState, state_of
from tasks.recipes import stage_of
from tasks.shared.contract.addresses import address_towards, free_port
from tasks.shared.contract.environment import home, prefect_api_url, shared_directory, stage_address
from tasks.shared.contract.stage import POOL, Rendezvous, StageRequest

DEPLOYMENT, QUEUE = "node/gpu", "nodes"
GATHER_S = 3600.0  # how long the first host waits for the others while it holds its slot
GRACE_S = 60.0  # how long the others may take to end after the first
POLL_S = 1.0
MOST_REPLACED = 10  # sampling hosts in one stage


class Others:
    """The runs on the other hosts."""

    def __init__(self) -> None:
        self.runs: dict[int, UUID] = {}  # by node
        self._samplers: range = range(0)
        self._order_again: Callable[[int], UUID] | None = None
        self._replaced = 0

    def replace_samplers(self, samplers: range, order: Callable[[int], UUID]) -> None:
        """Replace lost hosts that only sample: `order` gives such a node to another host."""
        self._samplers, self._order_again = samplers, order

    def failed(self) -> State[Any] | None:
        """Return the state of a host that failed and cannot be replaced, if there is one."""
        for node, run in self.runs.items():
            state = state_of(run)
            if state is None or not state.is_final() or state.is_completed():
                continue
            if not self._can_replace(node, state):
                return state
        return None

    def have_failed(self) -> bool:
        """Whether the stage cannot go on. Orders lost hosts again that only sampled."""
        for node, run in list(self.runs.items()):
            state = state_of(run)
            if state is not None and self._can_replace(node, state):
                assert self._order_again is not None
                self._replaced += 1
                self.runs[node] = self._order_again(node)
        return self.failed() is not None

    def _can_replace(self, node: int, state: State[Any]) -> bool:
        return node in self._samplers and state.is_crashed() and self._replaced < MOST_REPLACED

    def are_running(self) -> bool:
        """Whether all hosts run."""
        return all((state := state_of(run)) is not None and state.is_running() for run in self.runs.values())

    def wait(self) -> None:
        """Wait until they end by themselves, as their ranks do with those of the first host."""
        deadline = time.monotonic() + GRACE_S
        while self._living() and time.monotonic() <= deadline:
            time.sleep(POLL_S)

    def cancel(self) -> None:
        """Cancel the hosts that have not ended."""
        with get_client(sync_client=True) as client:
            for run in self._living():
                client.set_flow_run_state(run, Cancelling())

    def _living(self) -> list[UUID]:
        return [run for run in self.runs.values() if (state := state_of(run)) is None or not state.is_final()]


@contextmanager
def gathered(request: StageRequest, label: str, fresh: bool) -> Iterator[tuple[StageRequest, Others]]:
    """Yield the request for this host, and the other hosts once they run. A stage of one host has no others.

    Unless `fresh`, the shared state of earlier attempts is kept until the block ends well. Raises StageFailed, or
    StageLost if another host was lost.
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
    rendezvous = Rendezvous(
        nodes=nodes,
        node=0,
        address=address,
        port=free_port(address),
        shared=str(shared),
        samplers=num_samplers(stage_of(request)[1]),
    )
    first = request.model_copy(update={"rendezvous": rendezvous})
    try:
        _order(others, first, label)
        yield first, others
        others.wait()
    except StageFailed as error:  # also raised when the stage was stopped because another host had ended
        reason = None if RunState().is_over() else _reason(others.failed())
        if reason is None or (not isinstance(error, StageStopped) and not isinstance(reason, StageLost)):
            raise
        raise reason from error
    finally:
        others.cancel()
    shutil.rmtree(shared, ignore_errors=True)


def join(request: StageRequest, label: str, first: UUID) -> None:
    """Run this host's part of a stage. It ends with `first`, the flow run on the first host."""
    assert request.rendezvous is not None
    name = f"{Path(request.scratch).name}-node{request.rendezvous.node}"
    here = request.model_copy(update={"scratch": str(home() / "scratch" / name)})
    log_path = home() / "logs" / request.run / f"{label}.log"
    own, around = RunState(), RunState(first)
    backend = make_backend()
    backend.identity(*stage_of(request))  # an image that is missing is told in one line
    report = ProgressReport(f"{request.run}-{label}", log_path)
    run_on_backend(here, backend, log_path, report, lambda: own.is_over() or around.is_over(), fresh=True)


def _shared(request: StageRequest) -> Path:
    try:
        return shared_directory() / Path(request.scratch).name
    except ValueError as error:
        raise StageFailed(str(error)) from None


def _order(others: Others, first: StageRequest, label: str) -> None:
    """Order the other hosts. Returns once all of them run."""
    rendezvous = first.rendezvous
    assert rendezvous is not None
    # Another thread may call `order` again, and has neither of these two.
    logger, parent = get_run_logger(), RunState().flow_run

    def order(node: int) -> UUID:
        logger.info("%s: orders a host as node %d", label, node)
        return _order_node(first, label, node, parent)

    others.replace_samplers(range(rendezvous.trainers, rendezvous.nodes), order)
    for node in range(1, rendezvous.nodes):
        others.runs[node] = order(node)
    logger.info("%s: waits for %d more hosts", label, len(others.runs))
    deadline = time.monotonic() + GATHER_S
    while not others.are_running():
        if (reason := _reason(others.failed())) is not None:
            raise reason
        if RunState().is_over():
            raise StageStopped(f"stage '{first.stage}' was stopped while it waited for other hosts")
        if time.monotonic() > deadline:
            raise StageFailed(
                f"stage '{first.stage}': {len(others.runs)} more hosts were not free within {GATHER_S:.0f} s; "
                "two stages over several hosts may be waiting for each other: run one at a time"
            )
        time.sleep(POLL_S)


def _order_node(first: StageRequest, label: str, node: int, parent: UUID | None) -> UUID:
    """Order one host. Returns its flow run. `parent` is the run on the first host."""
    assert first.rendezvous is not None
    request = first.model_copy(update={"rendezvous": first.rendezvous.model_copy(update={"node": node})})
    arguments = {"request": request.model_dump(mode="json"), "label": f"{label}-node{node}", "first": parent}
    name = f"{first.run}-{label}-node{node}"
    try:
        run = run_deployment(
            DEPLOYMENT, parameters=arguments, flow_run_name=name, timeout=0, work_queue_name=QUEUE
        )
    except ObjectNotFound:
        raise StageFailed(
            f"stage '{first.stage}': several hosts (optimizer.nodes, generation.pool.nodes) need a server with the "
            f"deployment {DEPLOYMENT}: python -m flows.site, docs/operations.md"
        ) from None
    assert isinstance(run, FlowRun)  # a coroutine only where an event loop calls
    return run.id


def _reason(state: State[Any] | None) -> StageFailed | None:
    """Return the error of the stage for the failed state of another host; None without one."""
    if state is None:
        return None
    message = state.message or state.name
    if state.is_crashed():
        return StageLost(f"another host was lost: {message}")
    return StageFailed(f"on another host: {message}")
