"""Requests to vLLM, here or in a server: all ids so far are submitted again for each piece, as it keeps no row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from tasks.shared.generation.protocol import Bounds, RequestOptions, Sampling


@dataclass(slots=True)
class Request:
    """A request over its turns."""

    ids: list[int]  # prompt, sampled and feedback ids so far
    sampling: Sampling
    seed: int
    turn: int = 0


class Resubmits:
    """Keeps the ids of every live request; a subclass submits them with `_submit`."""

    def __init__(self) -> None:
        self._requests: dict[str, Request] = {}

    def add(self, request_id: str, ids: Sequence[int], **options: Unpack[RequestOptions]) -> None:
        """Queue a request, see `Decodes.add`."""
        assert request_id not in self._requests, f"request id {request_id} is taken"
        self._requests[request_id] = Request(list(ids), options["sampling"], options["seed"])
        self._submit(request_id, options["stop"], options["max_new_tokens"])

    def extend(self, request_id: str, ids: Sequence[int], **bounds: Unpack[Bounds]) -> None:
        """Append feedback ids and continue, see `Decodes.extend`."""
        request = self._requests[request_id]
        request.ids += ids
        request.turn += 1
        self._submit(request_id, **bounds)

    def release(self, request_id: str) -> None:
        """Forget a finished request."""
        del self._requests[request_id]

    def _submit(self, request_id: str, stop: str | None, max_new_tokens: int) -> None:
        raise AssertionError("a subclass submits")
