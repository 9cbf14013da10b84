"""Drills on an object store (S3): busy, slow, lost during an upload, unreachable for good, two publishers at once."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.shared.artifacts import Store
from tests.artifacts import publish
from tests.drills.faulty_s3 import FaultyS3, faulty_s3

FILES = {f"part-{i}.bin": bytes([i]) * 200_000 for i in range(4)}


@pytest.fixture
def root(bucket: str, tmp_path: Path) -> str:
    """The drill's own store, since moto keeps objects of earlier tests."""
    return f"{bucket}/{tmp_path.name}"


@pytest.fixture
def faulty(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """The faulty server between this process and the bucket."""
    import os

    import s3fs

    with faulty_s3(os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")) as state:
        monkeypatch.setenv("AWS_ENDPOINT_URL", state.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # the default takes most of a minute to give up
        s3fs.S3FileSystem.clear_instance_cache()
        yield state


def check_whole(root: str, cache: Path) -> int:
    """Check with an empty cache that every visible artifact is complete. Returns their number."""
    store = Store(root, cache=cache)
    refs = [store.read(location).ref for location in store.locations()]
    for ref in refs:
        store.fetch(ref)
    return len(refs)


def test_busy_and_slow(
    root: str, faulty: FaultyS3, tmp_path: Path, saw: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 answers 503 to a third of the requests and is slow in others: publishing and reading still succeed."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "8")  # one of several parallel requests can be refused repeatedly
    seen: list[str] = []

    def sometimes(method: str, path: str) -> str:
        seen.append(path)
        return "busy" if len(seen) % 3 == 0 else "slow" if len(seen) % 7 == 0 else ""

    faulty.fault = sometimes  # type: ignore[assignment]
    started = time.monotonic()
    ref = publish(Store(root, cache=tmp_path / "one"), "traces", FILES)
    faulty.fault = lambda *_: ""
    assert (Store(root, cache=tmp_path / "two").fetch(ref) / "part-3.bin").read_bytes() == FILES["part-3.bin"]
    assert faulty.done["busy"] and faulty.done["slow"]
    saw(f"{faulty.done['busy']} refused, {faulty.done['slow']} slow; {time.monotonic() - started:.1f} s")


@pytest.mark.long
@pytest.mark.parametrize("lost", ["part-2.bin", "manifest.json"])
def test_lost_in_mid_upload(
    root: str, faulty: FaultyS3, tmp_path: Path, saw: Callable[[str], None], lost: str
) -> None:
    """The connection is lost during an upload: OSError, nothing visible; a rerun sends only what is missing."""
    faulty.fault = lambda method, path: "cut" if method in ("PUT", "POST") and lost in path else ""
    with pytest.raises(OSError, match="run again when it does"):
        publish(Store(root, cache=tmp_path / "one"), "traces", FILES)
    faulty.fault = lambda *_: ""
    assert check_whole(root, tmp_path / "two") == 0
    puts: list[str] = []

    def count(method: str, path: str) -> str:
        if method == "PUT":
            puts.append(path.rsplit("/", 1)[-1].split("?")[0])
        return ""

    faulty.fault = count  # type: ignore[assignment]
    publish(Store(root, cache=tmp_path / "three"), "traces", FILES)
    assert check_whole(root, tmp_path / "four") == 1
    assert sorted(puts) == sorted({lost, "manifest.json"})
    saw(f"{faulty.done['cut']} attempts cut off; the next publication sent {' and '.join(puts)}")


@pytest.mark.long
def test_circumstances_of_a_lost_upload(root: str, faulty: FaultyS3, tmp_path: Path) -> None:
    """An upload is lost before its manifest; a rerun with other seconds of equal length gives an intact artifact."""
    first = FILES | {"circumstances/seconds": b"1.25"}
    faulty.fault = lambda method, path: "cut" if method == "PUT" and "manifest.json" in path else ""
    with pytest.raises(OSError, match="run again when it does"):
        publish(Store(root, cache=tmp_path / "one"), "traces", first)
    faulty.fault = lambda *_: ""
    publish(Store(root, cache=tmp_path / "two"), "traces", first | {"circumstances/seconds": b"3.75"})
    assert check_whole(root, tmp_path / "three") == 1


def test_two_publishers_with_other_seconds(root: str, faulty: FaultyS3, tmp_path: Path) -> None:
    """A manifest replaces another's of equal work with other seconds, after a read: it is intact for all readers."""
    one, two, reader = (Store(root, cache=tmp_path / name) for name in ("one", "two", "reader"))
    files = FILES | {"circumstances/seconds": b"1.25"}
    seen: list[bytes] = []

    def overtaken(method: str, path: str) -> str:
        if method == "PUT" and "manifest.json" in path and not seen:
            seen.append(b"")
            ref = publish(two, "traces", files | {"circumstances/seconds": b"3.75"})
            seen.append((reader.fetch(ref) / "circumstances/seconds").read_bytes())
        return ""

    faulty.fault = overtaken  # type: ignore[assignment]
    ref = publish(one, "traces", files)
    faulty.fault = lambda *_: ""
    assert seen[-1] == b"3.75"
    for name in ("one", "two", "reader", "another"):
        path = Store(root, cache=tmp_path / name).fetch(ref) / "circumstances/seconds"
        assert path.read_bytes() == b"1.25", name


def test_two_publishers(root: str, faulty: FaultyS3, tmp_path: Path, saw: Callable[[str], None]) -> None:
    """Eight processes publish one artifact to S3 at once: the result is one intact artifact with one reference."""
    stores = [Store(root, cache=tmp_path / str(i)) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        refs = set(pool.map(lambda store: publish(store, "traces", FILES), stores))
    assert len(refs) == 1
    assert check_whole(root, tmp_path / "reader") == 1
    saw("8 publishers")
