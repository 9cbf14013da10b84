"""The interface of an engine: add token ids, step, return finished pieces with ids and log-probs, load weights.

The interleaving loop depends on no particular engine. `extend` continues a request after its code ran: the Transformers
engine keeps the row's KV cache and forces the ids in; vLLM resubmits the ids and its prefix cache does the rest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, Unpack, runtime_checkable

from tasks.shared.generation.admission import Room

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0


class Bounds(TypedDict):
    """The limits of the next piece, beside the end of turn."""

    stop: str | None
    max_new_tokens: int


class RequestOptions(Bounds):
    """How a new request is sampled."""

    sampling: Sampling
    seed: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens sampled for one request since it was added or last extended."""

    request_id: str
    # (n,) in order, the token that completed the stop string or the end of turn included
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # (n,) under the distribution sampled from
    reason: Literal["stop", "eos", "length"]
    # (weight version, sampled tokens) in order; empty: the weights loaded last sampled all tokens
    versions: tuple[tuple[int, int], ...] = ()


class Decodes(Protocol):
    """Decodes many requests side by side. Request ids are the caller's and unique while alive."""

    def add(self, request_id: str, ids: Sequence[int], **options: Unpack[RequestOptions]) -> None:
        """Queue a request. The same seed and weights give the same tokens, whatever runs beside it."""

    def extend(self, request_id: str, ids: Sequence[int], **bounds: Unpack[Bounds]) -> None:
        """Append feedback ids to a request whose piece ended with reason `stop`, and continue sampling."""

    def release(self, request_id: str) -> None:
        """Forget a request whose piece was returned and that will not be extended."""

    def step(self) -> list[Piece]:
        """Decode one token for every running request; return the pieces that ended."""

    @property
    def num_running(self) -> int:
        """Requests queued or decoding (not those waiting to be extended)."""


class Generator(Decodes, Protocol):
    """A whole engine: it also takes over the trainer's weights and scores given tokens."""

    def load_weights(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> None:
        """Take over the trainer's parameters by name, tied tensors included."""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob of every token given the tokens before it (0.0 for the first), at temperature 1: for the probe."""


@runtime_checkable
class HasRoom(Protocol):
    """An engine whose cache evicts rows that wait for code when others need the room: `admission.py`."""

    @property
    def room(self) -> Room:
        """Its capacity."""


@runtime_checkable
class Aborts(Protocol):
    """An engine that can abort a request at any moment."""

    def abort(self, request_id: str) -> None:
        """Forget a request, queued, decoding or waiting; no piece of it is returned any more."""


@runtime_checkable
class Follows(Aborts, Protocol):
    """An engine that shows the tokens of unfinished pieces."""

    def sampled(self, request_id: str) -> Sequence[int]:
        """Ids of the unfinished piece; empty once the piece was returned."""


@runtime_checkable
class Sleeps(Protocol):
    """An engine that can free the device's memory while it is idle."""

    def sleep(self) -> None:
        """Drop weights and cache; `load_weights` wakes it."""


@runtime_checkable
class AsksBeside(Protocol):
    """An engine that serves several loops, each in its own thread."""

    def beside(self) -> Decodes:
        """A second loop's way to this engine."""


@runtime_checkable
class NamesDifferences(Protocol):
    """An engine whose tensors can be compared by name with the trainer's, for the probe's message."""

    def differing(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> list[str]:
        """Names of tensors that differ from those after `load_weights(weights)`."""


@runtime_checkable
class HasCopies(Protocol):
    """An engine of several servers, each with its own copy of the weights; all copies must be equal."""

    def disagreeing(self) -> list[str]:
        """Tensors, by server, that differ from those of the server that scored last."""
