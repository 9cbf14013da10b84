"""The flows of a worker in the pool `gpu`, for a pipeline elsewhere: one stage, or this host's part of a stage."""

from uuid import UUID

from prefect import flow

from tasks.launch import StageOrder, carry_out, join
from tasks.shared.contract.environment import store_uri
from tasks.shared.contract.stage import StageRequest, StageResult


@flow(name="stage")
def stage(order: StageOrder) -> StageResult:
    """Carry out one order; the run's record in the store holds the outcome."""
    return carry_out(order, store_uri())


@flow(name="node")
def node(request: StageRequest, label: str, first: UUID) -> None:
    """This host's part of a stage over several hosts; `first`: the flow run on the first of them."""
    join(request, label, first)
