"""The record of a run: for every stage that finished, what went in and what came out, by reference.

A JSON file in the store, `runs/<run>.json`, so that a stage can be run again by itself, on any host, with the inputs it
had: `prefect deployment run sft/local -p run=demo`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.documents import Documents
from tasks.shared.contract.stage import Value


class StageRecord(BaseModel):
    """One finished stage of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    inputs: dict[str, ArtifactRef]
    outputs: dict[str, ArtifactRef]
    metrics: dict[str, Value]
    seconds: float  # of the execution that made the outputs, also if it was an earlier run's
    finished: str  # ISO 8601, UTC
    made_of: dict[str, Any] = {}  # what the key of this work was made of: compared when it changes


class RunRecord(BaseModel):
    """A run: its resolved recipe and its finished stages by label (prepare, sft, rl-1, evaluate-base, ...)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    recipe: dict[str, Any]
    stages: dict[str, StageRecord] = {}
    stopped: dict[str, str] = {}  # label -> why it failed the last time; it has not finished since
    updated: str = ""  # ISO 8601, UTC

    def output(self, label: str, name: str) -> ArtifactRef:
        """An output of a finished stage; ValueError naming what there is if it is not there."""
        record = self.stages.get(label)
        if record is None:
            done = ", ".join(self.stages) or "none"
            raise ValueError(
                f"run '{self.run}': stage '{label}' has not finished (finished: {done}); run it first"
            )
        if name not in record.outputs:
            raise ValueError(
                f"run '{self.run}': stage '{label}' has no output '{name}': {', '.join(record.outputs)}"
            )
        return record.outputs[name]

    def checkpoint(self, label: str) -> ArtifactRef:
        """What a finished stage has trained: its best checkpoint, where it kept that beside the last one."""
        record = self.stages.get(label)
        return self.output(label, "best" if record and "best" in record.outputs else "checkpoint")


class RunRecords:
    """The records of all runs of one store."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._documents = Documents(store, "runs")

    def read(self, run: str) -> RunRecord:
        """The record of a run; ValueError, one line, if there is none or it is damaged."""
        return self._parse(run, self._documents.read(run))

    def names(self) -> list[str]:
        """All runs, the one that was updated last first."""
        return self._documents.names()

    def locked(self) -> AbstractContextManager[None]:
        """While it is held no run's record changes."""
        return self._documents.locked()

    def begin(
        self,
        run: str,
        recipe: dict[str, Any],
        stages: dict[str, StageRecord] | None = None,
        keeps: bool = False,
        is_gone: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Start a record, or give the existing one this recipe; what finished before stays until it finishes anew.

        `stages`: what to start from in place of nothing; a record of the same recipe, or one that `keeps`, keeps its
        own over them. A label that `is_gone` is left out, with what was made of it.
        """

        def update(content: bytes | None) -> str:
            kept = self._parse(run, content) if content is not None else None
            first = stages
            if first is None:
                first = kept.stages if kept else {}
            elif kept and (keeps or kept.recipe == recipe):
                first = first | kept.stages
            for label in filter(is_gone, list(first)):
                first = _without(first, label)
            return _written(RunRecord(run=run, recipe=recipe, stages=first))

        self._documents.change(run, update)

    def add(self, run: str, label: str, record: StageRecord) -> None:
        """Note a finished stage; what was made of its outputs that are no more leaves the record."""

        def update(content: bytes | None) -> str:
            current = self._parse(run, content)
            stages = _without(current.stages, label, record.outputs) | {label: record}
            stopped = {name: why for name, why in current.stopped.items() if name != label}
            return _written(current.model_copy(update={"stages": stages, "stopped": stopped}))

        self._documents.change(run, update)

    def stop(self, run: str, label: str, reason: str) -> None:
        """Note why a stage failed; the note goes when it finishes."""

        def update(content: bytes | None) -> str:
            current = self._parse(run, content)
            return _written(current.model_copy(update={"stopped": current.stopped | {label: reason}}))

        self._documents.change(run, update)

    def _parse(self, run: str, content: bytes | None) -> RunRecord:
        path = self._documents.describe(run)
        if content is None:
            known = ", ".join(self.names()) or "none yet"
            raise ValueError(f"run '{run}': no record {path}; runs in this store: {known}")
        try:
            return RunRecord.model_validate_json(content)
        except ValidationError as error:
            raise ValueError(
                f"{path}: damaged ({error.errors()[0]['msg']}); delete it and run the recipe again"
            ) from None


def _written(record: RunRecord) -> str:
    """The document of a record that changes now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return record.model_copy(update={"updated": now}).model_dump_json(indent=1)


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
