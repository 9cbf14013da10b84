"""An engine that the first of several ranks asks for all, as the other ranks see it."""

from collections.abc import Iterable, Sequence
from typing import NoReturn

import torch

from tasks.shared.generation.protocol import Decodes, Generator, Piece
from tasks.shared.learning.distributed import from_first_rank


class Follower(Generator):
    """Takes part in the gathering of weights and receives the first rank's scores; it is never asked to sample."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise AssertionError("the first rank asks for all")

    add = extend = release = _refuse
    num_running = 0

    def step(self) -> list[Piece]:
        """Nothing runs here."""
        return []

    def beside(self) -> Decodes:
        """A second loop is never asked to sample either."""
        return self

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """The first rank's scores."""
        return from_first_rank([[0.0]])

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Gather with the others."""
        for _ in weights:
            pass

    def differing(self, weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
        """The first rank's names."""
        self.load_weights(weights)
        return from_first_rank([""])
