"""The store: atomic publication, every byte checked, lineage, several writers, a full disk."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas
import pytest
import s3fs
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.shared.artifacts import ArtifactError, ArtifactRef, Provenance, Store
from tasks.shared.artifacts.lineage import lineage, made_from
from tasks.shared.artifacts.manifest import parse_manifest
from tasks.shared.contract.addresses import free_port
from tasks.shared.runs.tags import Pins

PROVENANCE = Provenance(stage="synthesize", config={"traces": {"dialect": "retool"}}, seed=7, inputs={})


def publish(
    store: Store, files: dict[str, bytes], provenance: Provenance = PROVENANCE, kind: str = "traces"
) -> ArtifactRef:
    """Publish `files` (path -> content)."""
    with store.staging(kind) as directory:
        for name, content in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)
        return store.publish(kind, directory, provenance, {"rows": len(files)})


def visible(root: Path) -> list[Path]:
    """Everything in a local store but empty folders."""
    return [path for path in root.rglob("*") if path.is_file()]


def test_publish_then_fetch_gives_the_same_bytes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    ref = publish(store, {"train.parquet": b"rows", "deep/er/file": b""})
    directory = store.fetch(ref)
    assert (directory / "train.parquet").read_bytes() == b"rows"
    assert (directory / "deep/er/file").read_bytes() == b""
    assert store.manifest(ref).metrics == {"rows": 2}
    assert ref.location == f"traces/{ref.digest[:16]}-{PROVENANCE.digest[:8]}"
    assert list((tmp_path / ".staging").iterdir()) == []


def test_equal_content_has_an_equal_digest_and_one_place(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first = publish(store, {"a": b"1", "b": b"2"})
    assert publish(store, {"b": b"2", "a": b"1"}) == first
    other = publish(store, {"a": b"1", "b": b"2"}, Provenance("synthesize", {}, 8, {}))
    assert other.digest == first.digest and other.location != first.location
    assert publish(store, {"a": b"2", "b": b"1"}).digest != first.digest


def test_circumstances_are_checked_but_no_part_of_the_digest(tmp_path: Path) -> None:
    """Measured times may differ between equal artifacts, but damage to them is found."""
    store = Store(str(tmp_path))
    first = publish(store, {"a": b"1", "circumstances/seconds": b"fast"})
    assert publish(store, {"a": b"1", "circumstances/seconds": b"slow"}) == first
    path = store.fetch(first) / "circumstances/seconds"
    assert path.read_bytes() == b"fast"
    path.chmod(0o644)
    path.write_bytes(b"fake")
    with pytest.raises(ArtifactError, match="circumstances/seconds: content changed"):
        store.fetch(first)


@settings(max_examples=40, deadline=None)
@given(position=st.integers(0, 999), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found_and_named(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    root = tmp_path_factory.mktemp("store")
    store = Store(str(root))
    ref = publish(store, {"model.safetensors": bytes(range(250)) * 4})
    path = store.fetch(ref) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.chmod(0o644)
    path.write_bytes(bytes(content))
    with pytest.raises(
        ArtifactError, match=r"model\.safetensors: content changed .* delete .* and run again"
    ) as caught:
        store.fetch(ref)
    assert "\n" not in str(caught.value)


def test_every_flipped_byte_of_the_manifest_is_found_or_harmless(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    ref = publish(store, {"a": b"1"})
    path = store.fetch(ref) / "manifest.json"
    path.chmod(0o644)
    good = path.read_bytes()
    unnoticed = []
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        try:
            store.fetch(ref)
        except ArtifactError as error:
            assert "\n" not in str(error)
        else:
            unnoticed.append(position)
    whitespace = {i for i, byte in enumerate(good) if byte in b" \n"}
    assert set(unnoticed) <= whitespace, [good[max(0, i - 20) : i + 5] for i in set(unnoticed) - whitespace]


def test_missing_truncated_and_foreign_files_are_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    ref = publish(store, {"a": b"123", "b": b"2"})
    directory = store.fetch(ref)
    (directory / "c").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"/c: not in the artifact's manifest"):
        store.fetch(ref)
    (directory / "c").unlink()
    (directory / "a").chmod(0o644)
    (directory / "a").write_bytes(b"12")
    with pytest.raises(ArtifactError, match=r"/a: 2 bytes where its manifest says 3"):
        store.fetch(ref)
    (directory / "a").unlink()
    with pytest.raises(ArtifactError, match=r"/a: missing from its artifact"):
        store.fetch(ref)


def test_a_missing_artifact(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    ref = ArtifactRef("traces", "0" * 64, f"traces/{'0' * 16}-{'0' * 8}")
    assert not store.exists(ref)
    with pytest.raises(ArtifactError, match="no such artifact"):
        store.fetch(ref)


def test_nothing_is_visible_after_a_failure(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError), store.staging("traces") as directory:
        (directory / "half").write_bytes(b"1")
        raise RuntimeError("the stage failed")
    assert visible(tmp_path) == []


def test_only_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from tasks.shared.artifacts import Store\n"
        "with Store(sys.argv[1]).staging('traces') as d:\n"
        "    (d / 'half').write_bytes(b'1'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert len(list((tmp_path / ".staging").iterdir())) == 1
    store = Store(str(tmp_path))
    with store.staging("traces") as first, store.staging("traces") as second:
        assert sorted((tmp_path / ".staging").iterdir()) == sorted([first, second])


def test_one_of_several_writers_wins_and_all_get_the_same_reference(tmp_path: Path) -> None:
    def write(_: int) -> ArtifactRef:
        return publish(Store(str(tmp_path)), {"a": b"1" * 1000, "b": b"2"})

    with ThreadPoolExecutor(8) as pool:
        refs = set(pool.map(write, range(16)))
    assert len(refs) == 1
    assert len(list((tmp_path / "traces").iterdir())) == 1
    assert list((tmp_path / ".staging").iterdir()) == []
    Store(str(tmp_path)).fetch(refs.pop())


def test_links_and_empty_directories_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    with pytest.raises(ArtifactError, match="not a plain file"), store.staging("traces") as directory:
        (directory / "link").symlink_to("/etc/hostname")
        store.publish("traces", directory, PROVENANCE)
    with pytest.raises(ArtifactError, match="nothing to publish"), store.staging("traces") as directory:
        store.publish("traces", directory, PROVENANCE)


def test_a_reference_cannot_leave_the_store(tmp_path: Path) -> None:
    from pydantic import TypeAdapter, ValidationError

    hostile = {"kind": "traces", "digest": "0" * 64, "location": "../../etc/passwd"}
    with pytest.raises(ValidationError):
        TypeAdapter(ArtifactRef).validate_python(hostile)
    ref = publish(Store(str(tmp_path)), {"a": b"1"})
    manifest = json.loads((tmp_path / ref.location / "manifest.json").read_bytes())
    manifest["files"][0]["path"] = "../../outside"
    with pytest.raises(ArtifactError, match="would leave the artifact"):
        parse_manifest(json.dumps(manifest).encode(), "here")


def test_lineage_walks_back_to_the_problems(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    problems = publish(store, {"p": b"problems"}, Provenance("prepare", {}, 0, {}), "problems")
    base = publish(store, {"m": b"base"}, Provenance("prepare", {}, 0, {}), "checkpoint")
    traces = publish(
        store, {"t": b"traces"}, Provenance("synthesize", {}, 0, {"problems": problems}), "traces"
    )
    tuned = publish(
        store, {"m": b"tuned"}, Provenance("sft", {}, 0, {"checkpoint": base, "traces": traces}), "checkpoint"
    )
    score = publish(store, {"s": b"0.5"}, Provenance("evaluate", {}, 0, {"checkpoint": tuned}), "evaluation")
    assert list(lineage(store, score)) == [score, tuned, base, traces, problems]
    assert [manifest.ref for manifest in made_from(store, problems.location)] == [traces]
    store.remove(traces.location)
    assert lineage(store, score)[traces] is None and not (tmp_path / traces.location).exists()


def test_datasets_open_as_they_are(tmp_path: Path) -> None:
    from datasets import load_dataset

    store = Store(str(tmp_path / "store"))
    with store.staging("problems") as directory:
        pandas.DataFrame({"problem": ["1+1"], "answer": ["2"]}).to_parquet(directory / "train.parquet")
        ref = store.publish("problems", directory, PROVENANCE)
    path = store.fetch(ref)
    assert pandas.read_parquet(path / "train.parquet")["answer"][0] == "2"
    rows = load_dataset(str(path), data_files="*.parquet", split="train", cache_dir=str(tmp_path / "cache"))
    assert rows[0]["problem"] == "1+1"


def test_a_full_disk_publishes_nothing_and_says_what_to_do(small_disk: Path) -> None:
    store = Store(str(small_disk / "store"))
    kept = publish(store, {"a": b"1"})
    with pytest.raises(OSError, match=r"no space left .* TIRFLOW_STORE") as caught:
        publish(store, {"big": os.urandom(4 << 20)})
    assert caught.value.filename == store.root
    assert [path.parent for path in visible(small_disk) if path.name != "manifest.json"] == [
        store.fetch(kept)
    ]
    publish(store, {"b": b"2"})


def test_a_full_disk_is_known_by_other_writers_errors(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space left"), Store(str(tmp_path)).staging("checkpoint"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_an_object_store_keeps_the_same_promises(bucket: str, tmp_path: Path) -> None:
    store = Store(bucket, cache=tmp_path / "one")
    ref = publish(store, {"train.parquet": b"rows", "deep/file": b"x"})
    assert (
        publish(Store(bucket, cache=tmp_path / "three"), {"train.parquet": b"rows", "deep/file": b"x"}) == ref
    )
    reader = Store(bucket, cache=tmp_path / "two")
    assert (reader.fetch(ref) / "deep/file").read_bytes() == b"x"
    assert reader.exists(ref) and reader.manifest(ref).metrics == {"rows": 2}
    path = reader._place.root / ref.location  # type: ignore[attr-defined]
    (path / "deep/file").write_bytes(b"y")
    with pytest.raises(ArtifactError, match="deep/file: content changed"):
        Store(bucket, cache=tmp_path / "four").fetch(ref)
    (path / "manifest.json").unlink()
    assert not reader.exists(ref)


def test_an_object_store_that_is_away_is_reported_in_one_line(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked of it: no error of a client's own library."""
    store = Store(bucket, cache=tmp_path)
    ref = publish(store, {"a": b"1"})
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port('127.0.0.1')}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    away = Store(bucket, cache=tmp_path)
    for ask in (away.locations, lambda: away.remove(ref.location), Pins(bucket).all):
        with pytest.raises(OSError, match="the object store fails"):
            ask()
