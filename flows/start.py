"""Starts a flow: checks the recipe before anything else, and opens or reads the run's record."""

from collections.abc import Callable
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.runtime import flow_run as this_run

from flows.forms import Form, Refs
from tasks.launch import Run, require_runnable
from tasks.recipes import key_by_key, load_recipe, resolve_recorded
from tasks.rl.spec import round_of
from tasks.shared.contract.documents import check_name
from tasks.shared.contract.environment import store_uri
from tasks.shared.runs.record import RunRecord, RunRecords

RECORD = "tirflow.record"  # label of a flow run: the record that has its stages
Inputs = dict[str, tuple[str, str]]  # input -> (label of the stage that made it, name of its output)


def named_after(*parameters: str) -> Callable[[], str]:
    """A name for a flow run: its flow, and the values of these parameters that were given."""

    def name() -> str:
        given = [str(this_run.parameters.get(parameter) or "") for parameter in parameters]
        return "-".join(filter(None, [this_run.flow_name, *given]))

    return name


def start(recipe: str, run: str, overrides: dict[str, Any], force: bool) -> Run:
    """Begin a run of a whole recipe, or continue the run of that name. ValueError for a mistake in the recipe."""
    resolved = load_recipe(recipe, _with_deployments_own(overrides))
    current = Run(check_name(run or resolved.name), resolved, force)
    require_runnable(current)
    written = resolved.model_dump(mode="json")
    RunRecords(current.store).begin(current.name, written, is_gone=_beyond(written))
    note_record(current.name)
    return current


def rerun(form: Form, *stages: str) -> tuple[Run, RunRecord]:
    """Begin single `stages`: with the recipe and the inputs of `run`, or with a recipe for a new run.

    With overrides the outcome is recorded under another name, `into` or `<run>-changed`, so that the record of `run`
    matches its recipe; keys that later versions added or removed are no change. An existing record `into` keeps its
    other stages and, if nothing is changed, its recipe. Returns the run and the record from which inputs are taken.
    ValueError if there is no such record.
    """
    records, run, overrides = RunRecords(store_uri()), form.run, form.overrides or {}
    if form.recipe and run not in records.names():
        begun = start(form.recipe, run, overrides, form.force)
        return begun, records.read(begun.name)
    if not run:
        raise ValueError("run is empty: name the run whose recipe and inputs are taken, like run=demo")
    record = records.read(run)
    overrides = _with_deployments_own(overrides)
    if form.recipe:
        resolved = load_recipe(form.recipe, overrides)
        changed = resolved.model_dump(mode="json") != record.recipe
    else:
        resolved = resolve_recorded(record.recipe, overrides, run, *stages)
        changed = resolved != resolve_recorded(record.recipe, {}, run, *stages)
    name = check_name(form.into or (f"{run}-changed" if changed else run))
    written = resolved.model_dump(mode="json") if changed else record.recipe
    if form.into in records.names() and not changed:
        written = records.read(form.into).recipe
    taken = record.stages if name != run else None
    records.begin(name, written, taken, keeps=bool(form.into), is_gone=_beyond(written))
    note_record(name)
    return Run(name, resolved, form.force), record


def take(record: RunRecord, sources: Inputs, given: Refs | None = None) -> Refs:
    """Every input of `sources`: the given reference, or else the one in the run's record."""
    given = given or {}
    unknown = sorted(set(given) - set(sources))
    if unknown:
        raise ValueError(f"inputs: this stage has no input '{unknown[0]}'; it takes {', '.join(sources)}")
    return {name: given.get(name) or record.output(*source) for name, source in sources.items()}


def _beyond(recipe: dict[str, Any]) -> Callable[[str], bool]:
    """Tells labels of rounds that a recipe has no more."""
    rounds = recipe["rl"]["rounds"]
    last = rounds if isinstance(rounds, int) else len(rounds)
    return lambda label: round_of(label) > last


def note_record(name: str) -> None:
    """Label this flow run with its record, by which whoever follows it finds logs and scores."""
    if (flow_run := _flow_run()) is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, {RECORD: name})


def _flow_run() -> FlowRun | None:
    context = FlowRunContext.get()
    return context.flow_run if context else None


def _with_deployments_own(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides of this flow run's deployment, and over them those of the run.

    Prefect would replace the deployment's parameter by the run's.
    """
    flow_run = _flow_run()
    if flow_run is None or flow_run.deployment_id is None:
        return overrides
    with get_client(sync_client=True) as client:
        own = client.read_deployment(flow_run.deployment_id).parameters.get("overrides")
    return key_by_key(own or {}) | key_by_key(overrides)
