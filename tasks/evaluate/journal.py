"""Finished samples in the scratch directory, from which an evaluation that was killed continues.

A shard is a folder of at most `size` samples, written atomically (temporary name, then rename) and never changed. The
directory belongs to one request: samples of another are never used.
"""

import os
import time
from pathlib import Path

from tasks.shared.contract.scratch import claim
from tasks.shared.reporting.samples import Sample, read_samples, write_samples

SampleKey = tuple[str, str, int]  # set, problem id, sample


class Journal:
    """Append-only store of finished samples. Outages are not kept, so that they are taken again."""

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
        """All samples, in the order in which they were appended."""
        return list(self._kept.values())
