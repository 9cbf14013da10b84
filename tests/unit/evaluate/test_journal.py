"""Finished samples survive a kill at any moment; void ones are not kept."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.evaluate.journal import Journal
from tasks.shared.reporting.samples import read_samples, write_samples
from tasks.shared.traces.trajectory import FinishReason
from tests.unit.reporting.making import make_evaluation, make_sample


def test_what_was_flushed_is_found_again(tmp_path: Path) -> None:
    """Whole shards come back equal; a half-written one is ignored; numbering goes on."""
    samples = [sample for sample in make_evaluation(0, 6, 4, 0.5) if not sample.outage]
    journal = Journal(tmp_path, "{}", size=10, every_s=1e9)
    for sample in samples[:15]:
        journal.append(sample)
    (tmp_path / "shard-000001.partial").mkdir()
    (tmp_path / "shard-000001.partial" / "samples.parquet").write_bytes(b"cut off")
    again = Journal(tmp_path, "{}", size=10, every_s=1e9)
    assert len(again) == 10 and samples[9].key in again and samples[10].key not in again
    for sample in samples[10:]:
        again.append(sample)
    again.flush()
    third = Journal(tmp_path, "{}")
    assert {s.key: (s.text, s.reason) for s in third.samples()} == {
        s.key: (s.text, s.reason) for s in samples
    }


def test_time_triggers_a_flush(tmp_path: Path) -> None:
    """A slow evaluation loses seconds, not hours."""
    Journal(tmp_path, "{}", size=1000, every_s=0.0).append(make_sample([]))
    assert len(Journal(tmp_path, "{}")) == 1


def test_a_void_sample_is_refused(tmp_path: Path) -> None:
    """It must be sampled again."""
    with pytest.raises(AssertionError):
        Journal(tmp_path, "{}").append(make_sample([], finish=FinishReason.SANDBOX_FAILURE))


def test_samples_round_trip_through_parquet(tmp_path: Path) -> None:
    """Every field, also empty calls and a missing prediction; equal samples give equal bytes, however slow."""
    samples = [make_sample([("print(1)", "ok", "1")]), make_sample([], predicted=None, sample=1)]
    slower = [replace(s, calls=[replace(call, seconds=9.0) for call in s.calls]) for s in samples]
    write_samples(tmp_path / "a", samples)
    write_samples(tmp_path / "b", slower)
    assert (tmp_path / "a/samples.parquet").read_bytes() == (tmp_path / "b/samples.parquet").read_bytes()
    back = read_samples(tmp_path / "a")
    assert [sample.calls for sample in back] == [tuple(sample.calls) for sample in samples]
    assert [(s.key, s.text, s.reason, s.predicted, s.finish) for s in back] == [
        (s.key, s.text, s.reason, s.predicted, s.finish) for s in samples
    ]
    assert list(back[0].logprobs) == pytest.approx(list(samples[0].logprobs))
