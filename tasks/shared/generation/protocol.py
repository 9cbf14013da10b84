"""What an engine must offer: add token ids, step, hand back finished pieces with ids and log-probs, load weights.

The interleaving loop above it knows no engine. `extend` continues a request after its code ran: the Transformers
engine keeps the row's KV cache and forces the ids in; vLLM resubmits the ids and its prefix cache does the rest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from tasks.shared.generation.admission import Room

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """What the policy sampled for one request since it was added or last extended."""

    request_id: str
    ids: tuple[
        int, ...
    ]  # (n,) in order, the token that completed the stop string or the end of turn included
    logprobs: tuple[float, ...]  # (n,) under the distribution sampled from
    reason: Literal["stop", "eos", "length"]
    # version of the weights and how many tokens they sampled, in order; empty: all by those that were loaded last
    versions: tuple[tuple[int, int], ...] = ()


class Generator(Protocol):
    """An engine that decodes many requests side by side. Request ids are the caller's and unique while alive."""

    def add(
        self,
        request_id: str,
        ids: Sequence[int],
        *,
        sampling: Sampling,
        seed: int,
        stop: str | None,
        max_new_tokens: int,
    ) -> None:
        """Queue a request; sampling with the same seed and weights gives the same tokens whatever runs beside it."""

    def extend(self, request_id: str, ids: Sequence[int], *, stop: str | None, max_new_tokens: int) -> None:
        """Append feedback ids to a request that handed back a piece with reason `stop`, and go on sampling."""

    def release(self, request_id: str) -> None:
        """Forget a request that handed back a piece and will not be extended."""

    def step(self) -> list[Piece]:
        """Decode one token for every running request; the pieces that ended. Empty if nothing ended or runs."""

    @property
    def num_running(self) -> int:
        """Requests queued or decoding (not those waiting to be extended)."""

    def load_weights(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> None:
        """Take over the trainer's parameters by name, tied tensors included."""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob of every token given those before it (0.0 for the first), at temperature 1: for the probe."""


@runtime_checkable
class HasRoom(Protocol):
    """An engine whose cache forgets rows that wait for code when others need the room: `admission.py`."""

    @property
    def room(self) -> Room:
        """What it has room for."""


@runtime_checkable
class Aborts(Protocol):
    """An engine that can let go of a request at any moment."""

    def abort(self, request_id: str) -> None:
        """Forget a request, queued, decoding or neither; nothing comes of it any more."""


@runtime_checkable
class Follows(Aborts, Protocol):
    """One that shows what it samples, too, while it does."""

    def sampled(self, request_id: str) -> Sequence[int]:
        """Ids of the piece that is being sampled; none where a piece was handed back."""


@runtime_checkable
class Sleeps(Protocol):
    """An engine that can give the device's memory to others while it has nothing to do."""

    def sleep(self) -> None:
        """Drop weights and cache; `load_weights` wakes it."""


@runtime_checkable
class AsksBeside(Protocol):
    """An engine of several loops, each in a thread of its own."""

    def beside(self, name: str) -> Generator:
        """A second loop's way to ask; of it `add`, `extend`, `release`, `num_running` and `step` are there."""


@runtime_checkable
class NamesDifferences(Protocol):
    """An engine whose tensors can be compared by name with the trainer's, for the probe's message."""

    def differing(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> list[str]:
        """Names of tensors that are not what `load_weights(weights)` would leave."""


@runtime_checkable
class HasCopies(Protocol):
    """An engine of several servers, each with its own copy of the weights: they must all hold the same."""

    def disagreeing(self) -> list[str]:
        """Tensors, by server, that are not what the server holds that scored last."""
