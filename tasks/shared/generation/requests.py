"""A live request of the slot engine, and the grouping of requests into passes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tasks.shared.generation.protocol import Sampling
from tasks.shared.generation.stops import StopFinder

CHUNK_TOKENS = 8192  # padded tokens of one prefill pass: bounds its memory
FREE = -1


@dataclass(slots=True, eq=False)
class SlotRequest:
    """A live request."""

    request_id: str
    sampling: Sampling
    uniforms: Iterator[float]
    stop: StopFinder | None
    budget: int  # tokens it may still sample before the next extension
    forced: tuple[int, ...]  # ids to compute before sampling continues
    slot: int = FREE
    length: int = 0  # tokens in the KV cache
    decoding: bool = False
    ids: list[int] = field(default_factory=list)  # sampled since it was added or last extended
    logprobs: list[float] = field(default_factory=list)
    versions: list[tuple[int, int]] = field(default_factory=list)  # of the `ids` before the current weights

    def close_version(self, version: int) -> None:
        """Assign `version` to the ids sampled since the last change of weights."""
        count = len(self.ids) - sum(count for _, count in self.versions)
        if count:
            self.versions.append((version, count))


def by_length(requests: Sequence[SlotRequest]) -> Iterator[list[SlotRequest]]:
    """Groups of similar chunk length whose padded size stays within CHUNK_TOKENS; longest first."""
    group: list[SlotRequest] = []
    for request in sorted(requests, key=lambda request: -len(request.forced)):
        if group and (len(group) + 1) * len(group[0].forced) > CHUNK_TOKENS:
            yield group
            group = []
        group.append(request)
    if group:
        yield group
