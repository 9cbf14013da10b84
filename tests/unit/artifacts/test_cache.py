"""Copies of an object store's artifacts: resumed, bounded, kept while they are read; files in parallel parts."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from upath import UPath

from tasks.shared.artifacts import transfer
from tasks.shared.artifacts.cache import Cache, locked
from tasks.shared.artifacts.manifest import MANIFEST_NAME, FileEntry, scan
from tasks.shared.artifacts.transfer import download, upload


def fill(cache: Cache, location: str, size: int) -> None:
    with cache.filling(location) as directory:
        (directory / "file").write_bytes(b"x" * size)
        (directory / MANIFEST_NAME).write_text("{}")


def test_the_copy_read_longest_ago_goes_first_and_none_in_use(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=2500)
    for name in "abc":
        fill(cache, f"checkpoint/{name}", 1000)
    reader = "import sys; from pathlib import Path; from tasks.shared.artifacts.cache import Cache\n"
    reader += f"Cache(Path({str(tmp_path)!r}), 0).find('checkpoint/a'); print('reading', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", reader], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        cache.make_room()
        assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == ["a", "c"]
        Cache(tmp_path, limit_bytes=0).make_room()
        assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["a"], (
            "removed while it was read"
        )
        other.communicate()
    assert Cache(tmp_path, 0).find("checkpoint/c") is None


def test_a_copy_removed_by_another_process_is_left_out(tmp_path: Path) -> None:
    """Two processes of a host make room at once. A dangling link stands for a file that the other has just removed."""
    for name in "ab":
        fill(Cache(tmp_path, 0), f"checkpoint/{name}", 1000)
    (tmp_path / "checkpoint/a/gone").symlink_to("nowhere")
    Cache(tmp_path, limit_bytes=0).make_room()
    assert Cache(tmp_path, 0).find("checkpoint/a") and not Cache(tmp_path, 0).find("checkpoint/b")


def test_a_copy_whose_removal_was_interrupted_is_replaced(tmp_path: Path) -> None:
    """It has no manifest, so every reader downloads it; that download must become the copy."""
    cache = Cache(tmp_path, limit_bytes=10**6)
    fill(cache, "traces/a", 10)
    (tmp_path / "traces/a" / MANIFEST_NAME).unlink()
    fill(cache, "traces/a", 20)
    copy = cache.find("traces/a")
    assert copy is not None and (copy / "file").stat().st_size == 20


def test_a_file_replaced_before_its_lock_is_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the copy that another process has put in its place would be removed while it is read."""
    path, lock = tmp_path / "file", fcntl.flock
    path.touch()
    with locked(path) as is_locked:
        assert is_locked
    monkeypatch.setattr(fcntl, "flock", lambda *how: (path.unlink(), lock(*how)))
    with locked(path) as is_locked:
        assert not is_locked


def test_partial_downloads_are_resumed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=10**6)
    with pytest.raises(OSError, match="link down"), cache.filling("traces/a") as directory:
        (directory / "first").write_bytes(b"1")
        raise OSError("link down")
    assert cache.find("traces/a") is None
    with cache.filling("traces/a") as directory:
        assert (directory / "first").read_bytes() == b"1"
        (directory / MANIFEST_NAME).write_text("{}")
    assert cache.find("traces/a") == tmp_path / "traces/a"


def test_files_are_sent_in_parts_and_complete_ones_skipped(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 1000)
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    for name, size in (("large", 12345), ("deep/small", 10), ("empty", 0)):
        (source / name).write_bytes(bytes(i * 7 % 256 for i in range(size)))
    entries = scan(source)
    place = UPath(bucket) / "files"
    upload(source, place, entries)
    (source / "deep/small").write_bytes(b"0123456789")  # of the same size: it exists and is not sent again
    upload(source, place, entries)
    target = tmp_path / "target"
    (target / "deep").mkdir(parents=True)
    download(place, target, [entry for entry in entries if entry.path != "empty"])
    download(place, target, entries)
    assert scan(target) == entries
    with pytest.raises(FileNotFoundError):
        download(place, target, [FileEntry("absent", 3, "0" * 64)])


def test_a_file_is_sent_with_the_settings_of_the_file_system(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    (tmp_path / "file").write_bytes(b"content")
    extra = {"s3_additional_kwargs": {"Metadata": {"made-by": "test"}}}
    place = UPath(bucket, endpoint_url=endpoint, key="test", secret="test", **extra)
    upload(tmp_path, place, scan(tmp_path))
    assert (place / "file").read_bytes() == b"content"
    assert place.fs.metadata((place / "file").path) == {"made-by": "test"}
