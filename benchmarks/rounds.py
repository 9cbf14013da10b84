"""Rounds in which each system takes its turn, the laps that they run, and medians over rounds."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def turns(systems: Sequence[Item], rounds: int, warm_up: int = 0) -> Iterator[tuple[int, Item]]:
    """Yield (round, system): every system once a round, so that noise of the machine falls on all alike.

    Each round begins with the next system. The rounds that warm up come first and have negative numbers.
    """
    for number in range(-warm_up, rounds):
        first = number % len(systems)
        for system in (*systems[first:], *systems[:first]):
            yield number, system


def timed(work: Callable[[], Item]) -> tuple[float, Item]:
    """Seconds of wall time, and the result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


@dataclass(frozen=True, slots=True)
class Lap:
    """One run of one system."""

    tokens: int
    seconds: float
    cpu_s: float  # of this process, its threads included

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Tokens per second of processor time."""
        return self.tokens / self.cpu_s


class Clock:
    """Wall and processor time since it was made."""

    def __init__(self) -> None:
        self._started, self._used = time.perf_counter(), time.process_time()

    def lap(self, tokens: int) -> Lap:
        """The time until now."""
        return Lap(tokens, time.perf_counter() - self._started, time.process_time() - self._used)


LAP_HEADER = ("tokens/s", "tokens/CPU-s", "ratio [quartiles]", "ratio by CPU time")


def lap_rows(laps: Mapping[str, Sequence[Lap]], base: str) -> list[list[str]]:
    """A row for each system: medians, and its ratios to the system `base`, each taken within its round."""
    return [
        [
            name,
            f"{statistics.median(lap.rate for lap in own):,.0f}",
            f"{statistics.median(lap.cpu_rate for lap in own):,.0f}",
            quartiles(ratios([lap.rate for lap in own], [lap.rate for lap in laps[base]])),
            f"{cpu_ratio(own, laps[base]):.2f}",
        ]
        for name, own in laps.items()
    ]


def cpu_ratio(laps: Sequence[Lap], base: Sequence[Lap]) -> float:
    """The median ratio of tokens per second of processor time."""
    return statistics.median(ratios([lap.cpu_rate for lap in laps], [lap.cpu_rate for lap in base]))


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [value / other for value, other in zip(values, base, strict=True)]


def quartiles(values: Sequence[float], digits: int = 2) -> str:
    """The median, with the quartiles in brackets."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
