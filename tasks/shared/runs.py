"""The record of a run: for every stage that finished, what went in and what came out, by reference.

A JSON file in the store, `runs/<run>.json`, so that a stage can be run again by itself, on any host, with the inputs it
had: `prefect deployment run sft/local -p run=demo`.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from upath import UPath

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.stage import Value

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class StageRecord(BaseModel):
    """One finished stage of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    inputs: dict[str, ArtifactRef]
    outputs: dict[str, ArtifactRef]
    metrics: dict[str, Value]
    seconds: float  # of the execution that made the outputs, also if it was an earlier run's
    finished: str  # ISO 8601, UTC


class RunRecord(BaseModel):
    """A run: its resolved recipe and its finished stages by label (prepare, sft, rl-1, evaluate-base, ...)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    recipe: dict[str, Any]
    stages: dict[str, StageRecord] = {}
    updated: str = ""  # ISO 8601, UTC

    def output(self, label: str, name: str) -> ArtifactRef:
        """An output of a finished stage; ValueError naming what has finished if it is not there."""
        record = self.stages.get(label)
        if record is None or name not in record.outputs:
            done = ", ".join(self.stages) or "none"
            raise ValueError(
                f"run '{self.run}': stage '{label}' has not finished (finished: {done}); run it first"
            )
        return record.outputs[name]

    @property
    def last_round(self) -> int:
        """The number of the last RL round that finished, 0 if none has."""
        return max(_rounds(self.stages), default=0)


class RunRecords:
    """The records of all runs of one store."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._root = UPath(store) / "runs"

    def read(self, run: str) -> RunRecord:
        """The record of a run; ValueError, one line, if there is none or it is damaged."""
        path = self._path(run)
        try:
            return RunRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            known = ", ".join(self.names()) or "none yet"
            raise ValueError(f"run '{run}': no record {path}; runs in this store: {known}") from None
        except ValidationError as error:
            raise ValueError(
                f"{path}: damaged ({error.errors()[0]['msg']}); delete it and run the recipe again"
            ) from None

    def names(self) -> list[str]:
        """All runs, the one that was updated last first."""
        if not self._root.is_dir():
            return []
        paths = [path for path in self._root.iterdir() if path.name.endswith(".json")]
        updated = {path.name.removesuffix(".json"): path.stat().st_mtime for path in paths}
        return sorted(updated, key=lambda name: updated[name], reverse=True)

    def begin(self, run: str, recipe: dict[str, Any], stages: dict[str, StageRecord] | None = None) -> None:
        """Start a record, or give the existing one this recipe; what finished before stays until it finishes anew.

        `stages`: what to start from in place of nothing; a record of the same recipe keeps its own over them. Rounds
        beyond those of the recipe are left out, with what was made of them.
        """
        with self._locked():
            kept = self.read(run) if self._path(run).exists() else None
            if stages is None:
                stages = kept.stages if kept else {}
            elif kept and kept.recipe == recipe:
                stages = stages | kept.stages
            last = recipe.get("rl", {}).get("rounds")
            for label in [f"rl-{number}" for number in _rounds(stages) if last and number > last]:
                stages = _without(stages, label)
            self._write(RunRecord(run=run, recipe=recipe, stages=stages))

    def add(self, run: str, label: str, record: StageRecord) -> None:
        """Note a finished stage; what was made of its outputs that are no more leaves the record."""
        with self._locked():
            current = self.read(run)
            stages = _without(current.stages, label, record.outputs) | {label: record}
            self._write(current.model_copy(update={"stages": stages}))

    def _path(self, run: str) -> UPath:
        return self._root / f"{check_name(run)}.json"

    def _write(self, record: RunRecord) -> None:
        path = self._path(record.run)
        content = record.model_copy(update={"updated": datetime.now(UTC).isoformat(timespec="seconds")})
        if self._is_local:
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(content.model_dump_json(indent=1))
            os.replace(str(temporary), str(path))
        else:
            path.write_text(content.model_dump_json(indent=1))

    @property
    def _is_local(self) -> bool:
        return self._root.protocol in ("", "file", "local")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time on a file system; an object store has no locks, there the last writer wins."""
        if not self._is_local:
            yield
            return
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(str(self._root / ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _rounds(stages: dict[str, StageRecord]) -> list[int]:
    """The numbers of the RL rounds."""
    return [int(label.removeprefix("rl-")) for label in stages if label.startswith("rl-")]


def _without(
    stages: dict[str, StageRecord], label: str, outputs: dict[str, ArtifactRef] | None = None
) -> dict[str, StageRecord]:
    """The stages without `label`, and without all that was made of what `label` gave and `outputs` do not."""
    if label not in stages:
        return stages
    still_there = {(ref.kind, ref.digest) for ref in (outputs or {}).values()}
    gone = {(ref.kind, ref.digest) for ref in stages[label].outputs.values()} - still_there
    left = {name: stage for name, stage in stages.items() if name != label}
    for name, stage in stages.items():
        if name in left and gone & {(ref.kind, ref.digest) for ref in stage.inputs.values()}:
            left = _without(left, name)
    return left


def check_name(run: str) -> str:
    """The run's name if it can be a file's; ValueError otherwise."""
    if not NAME.fullmatch(run):
        raise ValueError(
            f"run name {run!r}: use letters, digits, '.', '_' and '-', at most 80, starting with a letter or digit"
        )
    return run
