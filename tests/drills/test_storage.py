"""Drills on storage: full and read-only disks, flipped bits, truncated files, two publishers, clocks."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.shared.artifacts import ArtifactError, Store
from tasks.shared.contract.stage import StageRequest, StageResult
from tests.drills import worlds
from tests.integration.stages import in_process

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def shims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled shims."""
    folder = tmp_path_factory.mktemp("shims")
    for source in HERE.glob("*.c"):
        library = folder / f"{source.stem}.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return folder


def fill_disk(shims: Path, request: StageRequest, folder: Path, points: int) -> str:
    """Run the drill of `full_disk.py`. Returns attempts and messages."""
    (folder / "request.json").write_text(request.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "tests.drills.full_disk", request.stage, str(folder), str(points)],
        env=worlds.environment(folder) | {"LD_PRELOAD": str(shims / "failing_disk.so")},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    times = json.loads(done.stdout.splitlines()[-1])
    return (
        f"{times['tried']} of {times['writes']} writes failed in turn; messages: {' / '.join(times['said'])}"
    )


def test_disk_full_in_prepare(tmp_path: Path, shims: Path, saw: Callable[[str], None]) -> None:
    """The disk is full at a write of `prepare`: only complete artifacts, a one-line remedy, equal outputs after it."""
    saw(fill_disk(shims, worlds.prepare(tmp_path / "f"), tmp_path / "f", points=3))


@pytest.mark.long
@pytest.mark.parametrize("stage", ["prepare", "synthesize", "sft", "rl", "evaluate", "report"])
def test_disk_full_in_each_stage(tmp_path: Path, shims: Path, saw: Callable[[str], None], stage: str) -> None:
    """The disk is full at a write of each stage, with writes spread over its work: as for `prepare`."""
    saw(fill_disk(shims, worlds.REQUESTS[stage](tmp_path / "f"), tmp_path / "f", points=12))


def flip_a_bit(path: Path, rng: random.Random) -> bytes:
    """Flip one bit of a file. Returns the content before."""
    before = path.read_bytes()
    position = rng.randrange(len(before))
    path.chmod(0o644)
    path.write_bytes(
        before[:position] + bytes([before[position] ^ (1 << rng.randrange(8))]) + before[position + 1 :]
    )
    return before


@pytest.mark.long
def test_flipped_bits_and_cut_files(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """A bit is flipped in each file of each artifact, or its end cut off: reading detects it, with file and remedy."""
    rng = random.Random(5)
    requests = [worlds.rl(tmp_path / "rl"), worlds.report(tmp_path / "report")]
    in_process(requests[0])
    kinds, harmed = set(), 0
    for request in requests:
        store = Store(request.store)
        for location in store.locations():
            ref = store.read(location).ref
            directory = store.fetch(ref)
            for path in sorted(
                path for path in directory.rglob("*") if path.is_file() and path.stat().st_size
            ):
                before = flip_a_bit(path, rng)
                while path.name == "manifest.json" and path.read_bytes().split() == before.split():
                    path.write_bytes(before)  # white space between tokens is no content
                    flip_a_bit(path, rng)
                for damage in (path.read_bytes(), before[:-1]):
                    path.write_bytes(damage)
                    with pytest.raises(ArtifactError, match=r"delete .* and run again") as caught:
                        Store(request.store).fetch(ref)
                    assert path.name in str(caught.value) and "\n" not in str(caught.value)
                    harmed += 1
                path.write_bytes(before)
                kinds.add(path.suffix)
            Store(request.store).fetch(ref)
    saw(f"{harmed} damages to files of kinds {', '.join(sorted(kinds))}")


@pytest.mark.long
def test_damaged_saved_state(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """A bit is flipped in each file of a saved state, or its end cut off: the file is refused by name."""
    request = worlds.rl(tmp_path)
    in_process(request)  # the state stays in scratch until the launcher has the result
    rng, harmed = random.Random(7), 0
    state = next((Path(request.scratch) / "trainer").rglob("step-*"))
    for path in sorted(path for path in state.iterdir()):
        before = flip_a_bit(path, rng)
        for damage in (path.read_bytes(), before[: len(before) // 2]):
            path.write_bytes(damage)
            with pytest.raises(ValueError, match=r"delete .* and run again"):
                in_process(request)
            harmed += 1
        path.write_bytes(before)
    in_process(request)
    saw(f"{harmed} damages")


def run_process(request: StageRequest, folder: Path, extra: dict[str, str]) -> subprocess.Popen[str]:
    """The stage as a process; its request and result in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "request.json").write_text(request.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", f"tasks.{request.stage}.main", str(folder / "request.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=worlds.environment(folder) | extra,
    )


def digests(folder: Path) -> dict[str, str]:
    made = StageResult.model_validate_json((folder / "result.json").read_text()).outputs
    return {name: ref.digest for name, ref in made.items()}


@pytest.mark.long
def test_two_runs_publish_at_once(tmp_path: Path, saw: Callable[[str], None]) -> None:
    """Two processes run the same SFT in one store at once: the result is one intact artifact for both."""
    request = worlds.sft(tmp_path)
    started = [
        run_process(
            request.model_copy(update={"scratch": str(tmp_path / name / "scratch")}), tmp_path / name, {}
        )
        for name in ("one", "two")
    ]
    for process in started:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error[-2000:]
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    store = Store(request.store)
    made = [location for location in store.locations() if store.read(location).provenance.stage == "sft"]
    assert len(made) == 1
    saw("2 processes, 1 checkpoint")


@pytest.mark.long
def test_clock_set_back(tmp_path: Path, shims: Path, saw: Callable[[str], None]) -> None:
    """The clock is set back by an hour during a run, at three moments: outputs equal those of a steady clock."""
    request = worlds.sft(tmp_path)
    whole: dict[str, str] = {}
    moments = []
    total = 0
    for share in (None, 0.25, 0.5, 0.75):
        folder = tmp_path / str(share)
        looks = int(share * total) if share else 10**9
        changed = request.model_copy(update={"scratch": str(folder / "scratch")})
        shim = {"LD_PRELOAD": str(shims / "clock_back.so"), "CLOCK_BACK_AFTER": str(looks)}
        shim["CLOCK_LOOKS"] = str(tmp_path / "looks")
        started = time.time()
        process = run_process(changed, folder, shim)
        out, error = process.communicate(timeout=240)
        assert process.returncode == 0, error[-2000:]
        whole = whole or digests(folder)
        assert digests(folder) == whole
        total = total or max(map(int, (tmp_path / "looks").read_text().split()))
        times = [json.loads(line)["time"] for line in out.splitlines() if line.startswith('{"event"')]
        late = sum(moment < started for moment in times)
        assert bool(late) == bool(share), f"{looks} looks: {late} of {len(times)} events after the change"
        moments.append(f"{looks} ({late} of {len(times)} events came later)")
    saw(f"of {total} looks at the clock, after {', '.join(moments[1:])}")


def test_read_only_store(tmp_path: Path, small_disk: Path, saw: Callable[[str], None]) -> None:
    """The store becomes read-only: one line with path and remedy; once it is writable, the same command succeeds."""
    request = worlds.prepare(tmp_path).model_copy(update={"store": str(small_disk / "store")})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    process = run_process(request, tmp_path / "run", {})
    out, error = process.communicate(timeout=120)
    assert process.returncode == 3, error[-2000:]
    message = json.loads(out.splitlines()[-1])["message"]
    assert str(small_disk) in message and "TIRFLOW_STORE" in message
    subprocess.run(["mount", "-o", "remount,rw,size=64m", str(small_disk)], check=True)
    process = run_process(request, tmp_path / "run", {})
    process.communicate(timeout=120)
    assert process.returncode == 0
    saw(message.replace(str(small_disk), "…"))
