"""The state of the flow run around a task, asked of the server."""

from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.states import State


class RunState:
    """Tells whether the flow run around this task goes on.

    A flow whose worker died still runs but no cancellation reaches it, and one that was cut off may have been given
    up meanwhile; its stage has to look for itself.
    """

    def __init__(self, flow_run: UUID | None = None) -> None:
        """`flow_run`: another one than that around this task."""
        context = FlowRunContext.get()
        self.flow_run = flow_run or (context.flow_run.id if context and context.flow_run else None)

    def is_over(self) -> bool:
        """True once the run is cancelled or was given up; a server that does not answer is no reason to stop."""
        if self.flow_run is None:
            return False
        try:
            with get_client(sync_client=True) as client:
                state: State[Any] | None = client.read_flow_run(self.flow_run).state
        except httpx.HTTPError:
            return False
        return state is not None and (state.is_cancelling() or state.is_final())
