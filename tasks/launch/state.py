"""States of flow runs, read from the server."""

from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.states import State


def state_of(flow_run: UUID) -> State[Any] | None:
    """Return the state of a flow run; None while the server does not answer."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(flow_run).state
    except httpx.HTTPError:
        return None


class RunState:
    """Tells whether the flow run around this task, or another one, goes on.

    No cancellation reaches a flow whose worker died, and a flow that lost its server may have been given up. So its
    stage must check by itself.
    """

    def __init__(self, flow_run: UUID | None = None) -> None:
        """`flow_run` is another run than that around this task."""
        context = FlowRunContext.get()
        self.flow_run = flow_run or (context.flow_run.id if context and context.flow_run else None)

    def is_over(self) -> bool:
        """Whether the run was cancelled or given up. If the server does not answer, the stage goes on."""
        state = state_of(self.flow_run) if self.flow_run is not None else None
        return state is not None and (state.is_cancelling() or state.is_final())
