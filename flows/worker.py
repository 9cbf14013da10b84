"""What a worker of the pool `gpu` runs for a pipeline elsewhere: one stage, on this host."""

from prefect import flow

from tasks.launch import StageOrder, carry_out
from tasks.shared.environment import store_uri
from tasks.shared.stage import StageResult


@flow(name="stage")
def stage(order: StageOrder) -> StageResult:
    """Carry out one order; the run's record in the store says what came of it."""
    return carry_out(order, store_uri())
