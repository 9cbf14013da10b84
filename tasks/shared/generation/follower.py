"""An engine that the first of several ranks asks for all, as the other ranks see it."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tasks.shared.generation.protocol import Generator, Piece, Sampling
from tasks.shared.learning.distributed import from_first_rank

if TYPE_CHECKING:
    import torch


class Follower(Generator):
    """An engine in a rank that asks nothing of it: takes part in the gathering of weights, and hears of the scores."""

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
        """Not here."""
        raise AssertionError("the first rank asks for all")

    def extend(self, request_id: str, ids: Sequence[int], *, stop: str | None, max_new_tokens: int) -> None:
        """Not here."""
        raise AssertionError("the first rank asks for all")

    def release(self, request_id: str) -> None:
        """Not here."""
        raise AssertionError("the first rank asks for all")

    @property
    def num_running(self) -> int:
        """None run here."""
        return 0

    def step(self) -> list[Piece]:
        """None run here."""
        return []

    def beside(self, name: str) -> Generator:
        """Asks as little."""
        return self

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """What the first rank heard."""
        return from_first_rank([[0.0]])

    def load_weights(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> None:
        """Gather with the others."""
        for _ in weights:
            pass

    def differing(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> list[str]:
        """What the first rank heard."""
        self.load_weights(weights)
        return from_first_rank([""])
