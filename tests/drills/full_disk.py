"""A stage whose disk fills up at a chosen write: a process of its own, under the preloaded shim.

    LD_PRELOAD=failing_disk.so python -m tests.drills.full_disk <stage> <folder> <points>

The folder holds request.json, store and scratch. First the stage runs undisturbed and its writes are counted. Then the
disk is full from a write on, for `points` writes spread over all of them. Each time every visible artifact is complete,
the error is one line with cause and remedy, and the same command with free space makes the same outputs. Prints a JSON
object.
"""

import contextlib
import ctypes
import hashlib
import importlib
import io
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from tasks.recipes import find_stage
from tasks.shared.artifacts import Store
from tasks.shared.contract.stage import StageRequest, StageResult, stage_main
from tasks.shared.reporting.samples import SAMPLES_FILE

DISK = ctypes.CDLL(None)  # the shim, which is preloaded
ALL = -1
EXIT_STORAGE = 3
# Log-probs of a resumed evaluation may differ in their last bit, since its samples share their batches with others.
SAME = ["set", "problem_id", "sample", "response_ids", "correct", "reason"]


class Drill:
    """One stage and its folder, which is restored before each attempt."""

    def __init__(self, stage: str, folder: Path) -> None:
        self.stage = stage
        self.folder = folder
        self.request = StageRequest.model_validate_json((folder / "request.json").read_text())
        self._pristine = folder.with_name(folder.name + "-pristine")
        shutil.copytree(folder, self._pristine)

    def reset(self) -> None:
        """Restore the folder as it was before the first run."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._pristine, self.folder)

    def run(self, writes: int = ALL) -> tuple[int, str, int]:
        """Run the stage on a disk that accepts so many writes: exit code, error message, attempted writes."""
        out, sys.argv = io.StringIO(), ["main", str(self.folder / "request.json")]
        DISK.disk_arm(str(self.folder).encode(), ctypes.c_long(writes))
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                code = stage_main(
                    find_stage(self.stage), importlib.import_module(f"tasks.{self.stage}.main").run
                )
        finally:
            attempted = DISK.disk_disarm()
        events = [json.loads(line) for line in out.getvalue().splitlines() if line.startswith("{")]
        return code, next((event["message"] for event in events if event["event"] == "error"), ""), attempted

    def digests(self) -> dict[str, str]:
        """The digest of each output; of an evaluation that of the columns of SAME."""
        result = StageResult.model_validate_json((self.folder / "result.json").read_text())
        store, digests = Store(self.request.store), {}
        for name, ref in result.outputs.items():
            digests[name] = ref.digest
            if name == "evaluation":
                table = pq.read_table(store.fetch(ref) / SAMPLES_FILE, columns=SAME)
                digests[name] = hashlib.sha256(repr(table.to_pylist()).encode()).hexdigest()
        return digests

    def check_store(self) -> None:
        """Check every visible artifact against its digests."""
        store = Store(self.request.store)
        for location in store.locations():
            store.fetch(store.read(location).ref)

    def full_at(self, writes: int, whole: dict[str, str]) -> str:
        """Fill the disk after so many writes, then free it; the stage's message."""
        self.reset()
        code, message, _ = self.run(writes)
        self.check_store()
        if code:
            assert code == EXIT_STORAGE, f"write {writes}: exit code {code}: {message}"
            assert "no space left" in message.lower() and "\n" not in message, f"write {writes}: {message!r}"
            assert str(self.folder) in message, f"write {writes}: the place is not named: {message!r}"
            assert "TIRFLOW_" in message, f"write {writes}: no remedy: {message!r}"
        code, after, _ = self.run()
        assert code == 0, f"write {writes}: with space again: {after}"
        assert self.digests() == whole, f"write {writes}: other outputs"
        self.check_store()
        return message.replace(str(self.folder), "…")


def main() -> None:
    """Run the drill."""
    drill, points = Drill(sys.argv[1], Path(sys.argv[2])), int(sys.argv[3])
    code, message, total = drill.run()
    assert code == 0, message
    whole = drill.digests()
    chosen = {i * (total - 1) // max(1, points - 1) for i in range(points)}
    said = Counter(drill.full_at(writes, whole) for writes in sorted(chosen))
    print(json.dumps({"writes": total, "tried": len(chosen), "said": said}))


if __name__ == "__main__":
    main()
