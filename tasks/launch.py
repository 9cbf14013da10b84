"""`run_stage`: a stage as one cached Prefect task around a backend that executes it out of this process.

The cache key is what the work depends on (code, libraries, resolved configuration, input digests, seed), so a run
whose stage failed goes on from there when it is run again, whoever starts it; `force` executes anew.
"""

import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.filesystems import RemoteFileSystem
from prefect.logging import get_run_logger
from prefect.states import State

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.config import STAGE_CONFIGS, Recipe
from tasks.shared.environment import home, store_uri
from tasks.shared.execution.backend import Backend
from tasks.shared.execution.code_digest import code_digest
from tasks.shared.execution.execute import Event, execute
from tasks.shared.execution.process import ProcessBackend
from tasks.shared.runs import RunRecords, StageRecord
from tasks.shared.stage import StageRequest, StageResult

PROGRESS_EVERY_S = 2.0
LOG_PROGRESS_EVERY_S = 15.0


@dataclass(frozen=True, slots=True)
class Run:
    """What the stages of one run share."""

    name: str  # names the record, the logs and the progress; not part of any cache key
    recipe: Recipe
    force: bool = False  # execute although the same work has been done
    store: str = field(default_factory=store_uri)
    backend: Backend = field(default_factory=ProcessBackend)


def run_stage(
    run: Run,
    stage: str,
    inputs: dict[str, ArtifactRef],
    label: str = "",
    seed_label: str = "",
    files: tuple[Path, ...] = (),
) -> StageResult:
    """Run a stage, or take what the same work gave before; note it in the run's record.

    `label` names this use of the stage (`rl-2`, `evaluate-sft`); `seed_label` what its random numbers are derived
    from besides the recipe's seed (by default the label); `files` are local files and folders it reads besides its
    inputs: their content is part of what makes the work the same. Raises StageFailed, ArtifactError.
    """
    label = label or stage
    config = run.recipe.for_stage(stage).model_dump(mode="json")
    seed = derive_seed(run.recipe.seed, seed_label or label)
    key = work_key(stage, config, inputs, seed, run.backend.identity(config), files)
    request = StageRequest(
        stage=stage,
        run=run.name,
        config=config,
        inputs=inputs,
        seed=seed,
        store=run.store,
        scratch=str(home() / "scratch" / f"{stage}-{key[:16]}"),
    )
    execution = _execute.with_options(
        name=stage, task_run_name=label, result_storage=result_storage(run.store), refresh_cache=run.force
    )
    result = execution(request, label, key, run.backend, run.force)
    store = Store(run.store)
    if not all(store.exists(ref) for ref in result.outputs.values()):
        get_run_logger().warning("%s: its outputs are gone from the store, executing it again", label)
        result = execution.with_options(refresh_cache=True)(request, label, key, run.backend, run.force)
    record = StageRecord(
        stage=stage,
        inputs=inputs,
        outputs=result.outputs,
        metrics=result.metrics,
        seconds=result.seconds,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    RunRecords(run.store).add(run.name, label, record)
    return result


def require_surroundings(run: Run) -> None:
    """Refuse, before anything starts, a run of which some stage could not; ValueError, one line, with the remedy."""
    for stage in STAGE_CONFIGS:
        run.backend.identity(run.recipe.for_stage(stage).model_dump(mode="json"))


def derive_seed(seed: int, label: str) -> int:
    """A stage's own seed, 0 <= seed < 2**31, from the recipe's and the label of its use."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{label}".encode()).digest()[:4], "big") >> 1


def work_key(
    stage: str,
    config: dict[str, Any],
    inputs: dict[str, ArtifactRef],
    seed: int,
    surroundings: str,
    files: tuple[Path, ...] = (),
) -> str:
    """sha256, as hex, over everything that the outcome of a stage depends on."""
    parts = {
        "stage": stage,
        "code": code_digest(stage),
        "surroundings": surroundings,
        "config": config,
        "inputs": {name: [ref.kind, ref.digest] for name, ref in inputs.items()},
        "seed": seed,
        "files": [_file_digest(path) for path in files],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    """sha256 of a file, or over the files of a folder; of nothing if it is missing (the stage says so itself)."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def result_storage(store: str) -> Path | RemoteFileSystem:
    """Where finished work is remembered: beside an object store's artifacts, for every host, or under the home."""
    if "://" not in store:
        return home() / "results"
    storage = RemoteFileSystem(basepath=f"{store}/results")
    storage.save("tirflow-results", overwrite=True)  # Prefect takes no other than a saved one
    return storage


@task(cache_key_fn=lambda _, arguments: arguments["key"], persist_result=True, result_serializer="json")
def _execute(request: StageRequest, label: str, key: str, backend: Backend, fresh: bool) -> StageResult:
    """Execute one stage, its events going to Prefect's log and a progress artifact."""
    log_path = home() / "logs" / request.run / f"{label}.log"
    report = ProgressReport(f"{request.run}-{label}", log_path)
    result = execute(request, backend, log_path, report, RunState().is_cancelled, fresh)
    report.close()
    return result


class ProgressReport:
    """Turns a stage's events into Prefect logs and one progress artifact; rates are limited, the full log is a file."""

    def __init__(self, key: str, log_path: Path) -> None:
        """`key`: names the artifact."""
        self._logger = get_run_logger()
        self._key = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")
        self._artifact: UUID | None = None
        self._updated = self._logged = 0.0
        self._logger.info("full log: %s", log_path)

    def __call__(self, event: Event) -> None:
        """Report one event."""
        kind = event["event"]
        if kind == "log":
            self._logger.info("%s", event.get("message"))
        elif kind == "error":
            self._logger.error("%s", event.get("message"))
        elif kind == "progress":
            self._progress(int(event["step"]), int(event["total"]), event.get("metrics") or {})

    def close(self) -> None:
        """Mark the progress as complete."""
        self._publish(100.0)

    def _progress(self, step: int, total: int, metrics: dict[str, Any]) -> None:
        now = time.monotonic()
        percent = 100.0 * step / max(total, 1)
        if self._artifact is not None and now - self._updated < PROGRESS_EVERY_S:
            return
        self._publish(percent)
        self._updated = now
        if now - self._logged >= LOG_PROGRESS_EVERY_S or step == total:
            numbers = "  ".join(f"{name} {_short(value)}" for name, value in metrics.items())
            self._logger.info("%d/%d  %s", step, total, numbers)
            self._logged = now

    def _publish(self, percent: float) -> None:
        """Bring the artifact up to date; a server that is away is no reason to end a stage that runs."""
        try:
            if self._artifact is None:
                artifact = create_progress_artifact(percent, key=self._key, description=self._key)
                assert isinstance(artifact, UUID)  # a coroutine only where an event loop calls
                self._artifact = artifact
            else:
                update_progress_artifact(self._artifact, percent)
        except httpx.HTTPError as error:
            self._logger.warning("progress not shown, the server does not answer: %s", error)


class RunState:
    """Asks the server for the state of the flow run around this task.

    A flow whose worker died still runs but no cancellation reaches it; its stage has to look for itself.
    """

    def __init__(self) -> None:
        context = FlowRunContext.get()
        self._flow_run = context.flow_run.id if context and context.flow_run else None

    def is_cancelled(self) -> bool:
        """True once the run is being cancelled; a server that does not answer is no reason to stop."""
        if self._flow_run is None:
            return False
        try:
            with get_client(sync_client=True) as client:
                state: State[Any] | None = client.read_flow_run(self._flow_run).state
        except httpx.HTTPError:
            return False
        return state is not None and (state.is_cancelling() or state.is_cancelled())


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
