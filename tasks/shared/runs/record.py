"""The record of a run: references to the inputs and outputs of every finished stage.

A JSON file in the store, `runs/<run>.json`, so that a stage can run again alone, on any host, with the inputs that it
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
    seconds: float  # of the attempt that made the outputs, which may be an earlier run's
    finished: str  # ISO 8601, UTC
    made_of: dict[str, Any] = {}  # the parts of the stage's cache key, to compare when it changes


class RunRecord(BaseModel):
    """A run: its resolved recipe and its finished stages by label (prepare, sft, rl-1, evaluate-base, ...)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    recipe: dict[str, Any]
    stages: dict[str, StageRecord] = {}
    stopped: dict[str, str] = {}  # label -> why it failed; removed when it finishes
    updated: str = ""  # ISO 8601, UTC

    def output(self, label: str, name: str) -> ArtifactRef:
        """Return an output of a finished stage. Raises ValueError, which lists stages or outputs, if there is none."""
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
        """Return the checkpoint of a finished stage: the best one if it published that beside the last."""
        record = self.stages.get(label)
        return self.output(label, "best" if record and "best" in record.outputs else "checkpoint")


class RunRecords:
    """The records of all runs of one store."""

    def __init__(self, store: str) -> None:
        """`store`: the artifact store's directory or URI."""
        self._documents = Documents(store, "runs")

    def read(self, run: str) -> RunRecord:
        """Return the record of a run. Raises ValueError if there is none or it is damaged."""
        return self._parse(run, self._documents.read(run))

    def names(self) -> list[str]:
        """List all runs, the last updated first."""
        return self._documents.names()

    def locked(self) -> AbstractContextManager[None]:
        """Keep the records from changing while this lock is held."""
        return self._documents.locked()

    def begin(
        self,
        run: str,
        recipe: dict[str, Any],
        stages: dict[str, StageRecord] | None = None,
        keeps: bool = False,
        is_gone: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Start a record, or give the existing one this recipe. Finished stages stay until they finish again.

        `stages`: the stages of a new record. An existing record adds its own over them if `keeps`, or if its recipe is
        the same; otherwise they replace its own. A label that `is_gone` is dropped, with all that was made from it.
        """

        def update(content: bytes | None) -> str:
            existing = self._parse(run, content) if content is not None else None
            started = dict(stages or {})
            if existing is not None and (stages is None or keeps or existing.recipe == recipe):
                started |= existing.stages
            for label in filter(is_gone, list(started)):
                started = _without(started, label)
            return _written(RunRecord(run=run, recipe=recipe, stages=started))

        self._documents.change(run, update)

    def add(self, run: str, label: str, record: StageRecord) -> None:
        """Record a finished stage. Stages made from its previous outputs leave the record if those have changed."""

        def update(current: RunRecord) -> dict[str, Any]:
            stages = _without(current.stages, label, record.outputs) | {label: record}
            return {"stages": stages, "stopped": {k: why for k, why in current.stopped.items() if k != label}}

        self._change(run, update)

    def stop(self, run: str, label: str, reason: str) -> None:
        """Record why a stage failed, until it finishes."""

        self._change(run, lambda current: {"stopped": current.stopped | {label: reason}})

    def _change(self, run: str, update: Callable[[RunRecord], dict[str, Any]]) -> None:
        """Change fields of a record as `update` says."""

        def changed(content: bytes | None) -> str:
            current = self._parse(run, content)
            return _written(current.model_copy(update=update(current)))

        self._documents.change(run, changed)

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
    """Return the document of a record, with the current time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return record.model_copy(update={"updated": now}).model_dump_json(indent=1)


def _without(
    stages: dict[str, StageRecord], label: str, outputs: dict[str, ArtifactRef] | None = None
) -> dict[str, StageRecord]:
    """Return the stages without `label` and those made from its outputs that are not among `outputs`."""
    if label not in stages:
        return stages
    gone = _contents(stages[label].outputs) - _contents(outputs or {})
    left = {name: stage for name, stage in stages.items() if name != label}
    for name, stage in stages.items():
        if name in left and gone & _contents(stage.inputs):
            left = _without(left, name)
    return left


def _contents(refs: dict[str, ArtifactRef]) -> set[tuple[str, str]]:
    return {(ref.kind, ref.digest) for ref in refs.values()}
