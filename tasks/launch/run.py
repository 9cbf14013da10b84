"""`run_stage`: run a stage as one cached Prefect task, around a backend that runs it in another process.

The cache key has everything that the work depends on (code, libraries, resolved configuration, input digests, seed). So
a failed run continues at the failed stage when anybody runs it again. `force` ignores the cache.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.client.schemas.objects import TaskRun
from prefect.filesystems import RemoteFileSystem
from prefect.logging import get_run_logger
from prefect.states import State
from pydantic import BaseModel, ConfigDict
from upath import UPath

from tasks.launch.backends.attempt import StageFailed, StageLost, run_on_backend
from tasks.launch.backends.backend import Backend
from tasks.launch.backends.choose import make_backend, num_nodes
from tasks.launch.keys import derive_seed, key_parts, work_key
from tasks.launch.nodes import gathered
from tasks.launch.progress import ProgressReport
from tasks.launch.state import RunState
from tasks.launch.workers import run_on_worker
from tasks.recipes import STAGES, Recipe, find_stage, round_recipe
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.artifacts.locations import is_elsewhere
from tasks.shared.artifacts.outage import reported_as_outage
from tasks.shared.contract.environment import chosen_backend, home, require_keys, shared_directory, store_uri
from tasks.shared.contract.spec import StageSpec
from tasks.shared.contract.stage import StageRequest, StageResult
from tasks.shared.runs.leases import Leases
from tasks.shared.runs.record import RunRecords, StageRecord

RETRY_DELAYS_S = [5.0, 30.0]  # after an outage; a stage that failed by itself is not retried


@dataclass(frozen=True, slots=True)
class Run:
    """The values that the stages of one run share."""

    name: str  # of the record, the logs and the progress; not part of any cache key
    recipe: Recipe
    force: bool = False  # run even if the same work has been done
    store: str = field(default_factory=store_uri)
    dry_run: "Callable[[StageOrder], StageResult] | None" = None  # answers orders, which then run nothing

    def in_round(self, number: int) -> "Run":
        """This run with the recipe of RL round `number`."""
        return replace(self, recipe=round_recipe(self.recipe, number))


class StageOrder(BaseModel):
    """One stage of a run, as a worker gets it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    recipe: dict[str, Any]
    force: bool
    stage: str
    inputs: dict[str, ArtifactRef]
    label: str
    seed_label: str
    files: tuple[Path, ...] = ()


def run_stage(
    run: Run,
    spec: StageSpec[Any],
    inputs: dict[str, ArtifactRef],
    label: str = "",
    seed_label: str = "",
    files: tuple[Path, ...] = (),
) -> StageResult:
    """Run a stage, or reuse the result of equal work, and add it to the run's record.

    `label` names this use of the stage (`rl-2`, `evaluate-sft`). Its random numbers derive from the recipe's seed and
    `seed_label`, by default the label. `files` are local files and folders that it reads besides its inputs; their
    content is part of the cache key. Raises StageFailed, ArtifactError.
    """
    label = label or spec.name
    order = StageOrder(
        run=run.name,
        recipe=run.recipe.model_dump(mode="json"),
        force=run.force,
        stage=spec.name,
        inputs=inputs,
        label=label,
        seed_label=seed_label or label,
        files=files,
    )
    if run.dry_run is not None:
        return run.dry_run(order)
    if chosen_backend() == "workers":
        run_on_worker(order.model_dump(mode="json"), spec.name, label)
        record = RunRecords(run.store).read(run.name).stages[label]  # added by the worker
        return StageResult(outputs=record.outputs, metrics=record.metrics, seconds=record.seconds)
    return carry_out(order, run.store)


@dataclass(frozen=True, slots=True)
class Work:
    """A stage's work and its cache key."""

    request: StageRequest
    backend: Backend
    parts: dict[str, Any]  # of the key
    key: str


def describe_work(order: StageOrder, store: str) -> Work:
    """Return the work of an order on this host. Raises ValueError if the host lacks something that it needs."""
    recipe = Recipe.model_validate(order.recipe)
    spec = find_stage(order.stage)
    sections = spec.config.of(recipe)
    config = sections.model_dump(mode="json")
    seed = derive_seed(recipe.seed, order.seed_label)
    backend = make_backend()
    environment_versions = backend.identity(spec, sections)
    parts = key_parts(order.stage, config, order.inputs, seed, environment_versions, order.files)
    key = work_key(parts)
    request = StageRequest(
        stage=order.stage,
        run=order.run,
        config=config,
        inputs=order.inputs,
        seed=seed,
        store=store,
        scratch=str(home() / "scratch" / f"{order.stage}-{key[:16]}"),
        files=tuple(str(path) for path in order.files),
    )
    return Work(request, backend, parts, key)


def carry_out(order: StageOrder, store: str) -> StageResult:
    """Run a stage on this host, or reuse the result of equal work; see `run_stage`."""
    work = describe_work(order, store)
    attempt = _attempt.with_options(
        name=order.stage,
        task_run_name=order.label,
        result_storage=result_storage(store),
        refresh_cache=order.force,
    )
    arguments = (work.request, order.label, work.key, work.backend, order.force)
    artifacts = Store(store)
    with Leases(store).hold(f"{order.run}, {order.label}", order.inputs.values()):
        try:
            result = attempt(*arguments)
            # before the check of its outputs, since a collection keeps what is recorded
            _record(order, work, result)
            if not all(artifacts.exists(ref) for ref in result.outputs.values()):
                get_run_logger().warning(
                    "%s: its outputs are gone from the store; running it again", order.label
                )
                result = attempt.with_options(refresh_cache=True)(*arguments)
                _record(order, work, result)
        except StageFailed as error:
            RunRecords(store).stop(order.run, order.label, str(error))  # for the report
            raise
    return result


def _record(order: StageOrder, work: Work, result: StageResult) -> None:
    """Add a finished stage to its run's record."""
    record = StageRecord(
        stage=order.stage,
        inputs=order.inputs,
        outputs=result.outputs,
        metrics=result.metrics,
        seconds=result.seconds,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        made_of=work.parts,
    )
    RunRecords(work.request.store).add(order.run, order.label, record)


def require_runnable(run: Run) -> None:
    """Raise ValueError with the remedy, before anything starts, if some stage of the run could not start."""
    if chosen_backend() == "workers":
        return  # only their hosts can know
    backend = make_backend()
    for spec in STAGES.values():
        config = spec.config.of(run.recipe)
        backend.identity(spec, config)
        require_keys(config)
        if num_nodes(config) > 1:
            shared_directory()


def result_storage(store: str) -> Path | RemoteFileSystem:
    """Return where results of finished work are kept: in an object store for all hosts, else under the home."""
    if not is_elsewhere(store):
        return home() / "results"
    storage = RemoteFileSystem(basepath=f"{store}/results")
    storage.save("tirflow-results", overwrite=True)  # Prefect takes no other than a saved one
    return storage


def _is_outage(_: Task[Any, Any], __: TaskRun, state: State[Any]) -> bool:
    """Whether a stage was lost through no fault of its own."""
    return isinstance(state.result(raise_on_failure=False), StageLost)


@task(
    cache_key_fn=lambda _, arguments: arguments["key"],
    persist_result=True,
    result_serializer="json",
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=_is_outage,
)
def _attempt(request: StageRequest, label: str, key: str, backend: Backend, fresh: bool) -> StageResult:
    """Run one stage, its events going to Prefect's log and a progress artifact."""
    log_path = home() / "logs" / request.run / f"{label}.log"
    report, state = ProgressReport(f"{request.run}-{label}", log_path), RunState()
    try:
        with gathered(request, label, fresh) as (own_request, others):

            def should_stop() -> bool:
                return state.is_over() or others.have_failed()

            result = run_on_backend(own_request, backend, log_path, report, should_stop, fresh)
    finally:
        _upload_log(request, log_path)
    report.close()
    return result


def _upload_log(request: StageRequest, log_path: Path) -> None:
    """Copy the log to an object store of artifacts, so that people find it from other hosts."""
    if not is_elsewhere(request.store) or not log_path.exists():
        return
    target = UPath(request.store) / "logs" / request.run / log_path.name
    try:
        with reported_as_outage(request.store):
            target.fs.put_file(str(log_path), target.path)
    except OSError as error:
        get_run_logger().warning("full log stays on this host, the store does not take it: %s", error)
