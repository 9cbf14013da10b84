"""Finished samples, kept in the scratch directory as they come: an evaluation that was killed goes on from here.

Shards are folders of at most `size` samples, written whole (temporary name, then rename) and never changed. Beside
them stands which request they were taken for: samples of another are never taken up.
"""

import os
import time
from pathlib import Path

from tasks.shared.contract.scratch import claim
from tasks.shared.reporting.samples import Sample, read_samples, write_samples

SampleKey = tuple[str, str, int]  # set, problem id, sample


class Journal:
    """Append-only store of finished samples; outages are not kept, so that they are repeated."""

    def __init__(self, directory: Path, fingerprint: str, size: int = 64, every_s: float = 5.0) -> None:
        """`fingerprint`: of the request. ValueError if the directory holds samples of another."""
        claim(directory, fingerprint, "samples")
        self._directory = directory
        self._size = size
        self._every_s = every_s
        self._kept: dict[SampleKey, Sample] = {}
        self._pending: list[Sample] = []
        self._flushed = time.monotonic()
        self._shards = 0
        for shard in sorted(directory.glob("shard-??????")):
            self._kept.update({sample.key: sample for sample in read_samples(shard)})
            self._shards += 1

    def __contains__(self, key: SampleKey) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def append(self, sample: Sample) -> None:
        """Keep a finished sample; on disk after `size` samples or `every_s` seconds."""
        assert not sample.outage and sample.key not in self._kept, sample.key
        self._kept[sample.key] = sample
        self._pending.append(sample)
        if len(self._pending) >= self._size or time.monotonic() - self._flushed >= self._every_s:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one shard."""
        if self._pending:
            shard = self._directory / f"shard-{self._shards:06d}"
            partial = shard.with_suffix(".partial")
            partial.mkdir(exist_ok=True)
            write_samples(partial, self._pending)
            os.replace(partial, shard)
            self._shards += 1
            self._pending = []
        self._flushed = time.monotonic()

    def samples(self) -> list[Sample]:
        """All that were kept, in the order in which they were first kept."""
        return list(self._kept.values())
