"""Each stage as a flow of its own: run it again, or with changed parameters, on the inputs that a run had.

    prefect deployment run sft/local -p run=demo -p overrides='{"sft.max_steps": 50}'

`run` names the run whose recipe and inputs are used; `recipe` starts a new run instead. With `overrides`, which change
recipe keys, the result is recorded under `into` (or `<run>-changed`). `inputs` replaces single inputs by references.
`force` runs the stage again although its result exists.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from prefect import flow

import tasks.evaluate.task
import tasks.prepare.task
import tasks.report.task
import tasks.rl.task
import tasks.sft.task
import tasks.synthesize.task
from flows.compare import find_evaluation
from flows.orders import order_of
from flows.publish import publish_report
from flows.start import Inputs, rerun, take
from flows.tagged import label_of
from tasks.launch import Run, run_stage
from tasks.recipes import Recipe, find_stage
from tasks.rl.spec import RL
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.rows.raw import PACKED, READERS
from tasks.shared.runs.record import RunRecord, RunRecords

Refs = dict[str, ArtifactRef]
Overrides = dict[str, Any]

P = ParamSpec("P")
R = TypeVar("R")

ARGUMENTS = {
    "run": "the run whose recipe and inputs are taken.",
    "recipe": "start a new run with this recipe instead.",
    "overrides": 'keys of the recipe and their values, such as {"sft.max_steps": 50}.',
    "inputs": "references in place of single inputs.",
    "into": "name under which the outcome is recorded; `<run>-changed` if overrides change something.",
    "force": "run again although the same work has been done.",
}
PROBLEMS: Inputs = {"problems": ("prepare", "problems")}
EVALUATION_SETS: Inputs = {"evaluation_sets": ("prepare", "evaluation_sets")}


def shares_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Add ARGUMENTS to the docstring of a flow, from which Prefect's UI describes its parameters."""
    text = inspect.cleandoc(function.__doc__ or "")
    text += "" if "\nArgs:" in text else "\n\nArgs:"
    taken = [name for name in inspect.signature(function).parameters if name in ARGUMENTS]
    function.__doc__ = "\n".join([text, *(f"    {name}: {ARGUMENTS[name]}" for name in taken)])
    return function


@flow(name="prepare", flow_run_name="prepare-{run}")
@shares_arguments
def prepare(
    run: str = "", recipe: str = "", overrides: Overrides | None = None, into: str = "", force: bool = False
) -> Refs:
    """Base model and problem sets."""
    current, _ = rerun(("prepare",), run, recipe, overrides or {}, into, force)
    prepared = tasks.prepare.task.prepare(current)
    return {
        "checkpoint": prepared.checkpoint,
        "problems": prepared.problems,
        "evaluation_sets": prepared.evaluation_sets,
    }


@flow(name="synthesize", flow_run_name="synthesize-{run}")
@shares_arguments
def synthesize(
    run: str = "",
    recipe: str = "",
    overrides: Overrides | None = None,
    inputs: Refs | None = None,
    responses: str = "",
    pass_rates: str = "",
    into: str = "",
    force: bool = False,
) -> Refs:
    """Traces of a teacher, every code block verified.

    Args:
        responses: a run whose teacher's responses are reused, so that only missing ones are requested.
        pass_rates: the difficulty of each problem: `<run>/rl-<number>`, the rollouts of that round, or `<run>/<name>`,
            an evaluation of the training problems.
    """
    current, record = rerun(("synthesize",), run, recipe, overrides or {}, into, force)
    sources = PROBLEMS | EVALUATION_SETS
    if current.recipe.synthesize.mode == "bootstrap":
        sources["checkpoint"] = _cold_start(current)
    taken = take(record, sources, inputs or {})
    if responses:
        taken["responses"] = RunRecords(current.store).read(responses).output("synthesize", "responses")
    if pass_rates:
        taken["pass_rates"] = _pass_rates(RunRecords(current.store), pass_rates)
    traces = tasks.synthesize.task.synthesize(
        current,
        taken["problems"],
        taken["evaluation_sets"],
        taken.get("checkpoint"),
        taken.get("responses"),
        taken.get("pass_rates"),
    )
    return {"traces": traces}


@flow(name="sft", flow_run_name="sft-{run}")
@shares_arguments
def sft(
    run: str = "",
    recipe: str = "",
    overrides: Overrides | None = None,
    inputs: Refs | None = None,
    into: str = "",
    force: bool = False,
) -> Refs:
    """A checkpoint fine-tuned on traces."""
    current, record = rerun(("sft",), run, recipe, overrides or {}, into, force)
    sources: Inputs = {"checkpoint": ("prepare", "checkpoint"), "traces": ("synthesize", "traces")}
    taken = take(record, sources, inputs or {})
    return {"checkpoint": tasks.sft.task.sft(current, taken["checkpoint"], taken["traces"])}


@flow(name="rl", flow_run_name="rl-{run}-{number}")
@shares_arguments
def rl(
    run: str = "",
    number: int = 1,
    recipe: str = "",
    overrides: Overrides | None = None,
    inputs: Refs | None = None,
    into: str = "",
    force: bool = False,
) -> Refs:
    """One RL round, which continues the round before.

    Args:
        number: of the round, from 1.
    """
    current, record = rerun(("rl",), run, recipe, overrides or {}, into, force)
    policy = (f"rl-{number - 1}", "checkpoint") if number > 1 else _cold_start(current)
    sources: Inputs = {"checkpoint": policy, **PROBLEMS}
    if number > 1:
        sources["trainer_state"] = (f"rl-{number - 1}", "trainer_state")
    if current.recipe.rl.kl_coefficient or current.recipe.rl.optimizer.lora:
        sources["reference"] = _cold_start(current)
    if current.recipe.rl.evaluate_every_steps:
        sources |= EVALUATION_SETS
    before = record.stages.get(f"rl-{number - 1}")
    if current.recipe.rl.keep == "best" and before and "best" in before.outputs:
        sources["best"] = (f"rl-{number - 1}", "best")
    result = tasks.rl.task.rl(current, number, **take(record, sources, inputs or {}))
    return {
        "checkpoint": result.checkpoint,
        "rollouts": result.rollouts,
        "trainer_state": result.trainer_state,
    }


@flow(name="again", flow_run_name="again-{run}-{label}")
@shares_arguments
def again(
    run: str = "",
    label: str = "",
    overrides: Overrides | None = None,
    inputs: Refs | None = None,
    into: str = "",
    force: bool = False,
) -> Refs:
    """Any stage of a run's pipeline by itself.

    Args:
        label: of the stage in the run's record, such as sft, rl-2 or evaluate-rl.
    """
    current, record = rerun((label.partition("-")[0],), run, "", overrides or {}, into, force)
    order, sources = order_of(current, label)
    taken = order.inputs | take(record, sources, inputs or {})
    as_ordered = replace(current, recipe=Recipe.model_validate(order.recipe))
    spec = find_stage(order.stage)
    return run_stage(as_ordered, spec, taken, label, order.seed_label, order.files).outputs


@flow(name="evaluate", flow_run_name="evaluate-{run}-{checkpoint}")
@shares_arguments
def evaluate(
    run: str = "",
    checkpoint: Literal["base", "sft", "rl"] = "rl",
    problems: list[str] | None = None,
    recipe: str = "",
    overrides: Overrides | None = None,
    inputs: Refs | None = None,
    into: str = "",
    force: bool = False,
) -> Refs:
    """Scores of one checkpoint, with intervals.

    Args:
        checkpoint: which checkpoint of the run.
        problems: files with columns problem and answer, by absolute path, in place of the recipe's sets.
    """
    changes = (overrides or {}) | ({"data.evaluation": _problem_sections(problems)} if problems else {})
    worked = ("prepare", "evaluate") if problems else ("evaluate",)
    current, record = rerun(worked, run, recipe, changes, into, force)
    sources: Inputs = {"checkpoint": checkpoint_of(record, checkpoint)}
    given = inputs or {}
    if problems:
        given = {"evaluation_sets": tasks.prepare.task.prepare(current).evaluation_sets, **given}
    taken = take(record, sources | EVALUATION_SETS, given)
    evaluation = tasks.evaluate.task.evaluate(
        current, checkpoint, taken["checkpoint"], taken["evaluation_sets"]
    )
    return {"evaluation": evaluation}


@flow(name="report", flow_run_name="report-{run}")
@shares_arguments
def report(run: str = "", overrides: Overrides | None = None, into: str = "", force: bool = False) -> Refs:
    """The report of what a run has finished so far."""
    current, record = rerun(("report",), run, "", overrides or {}, into, force)
    outputs = {
        f"rollouts_{label.removeprefix('rl-')}": stage.outputs["rollouts"]
        for label, stage in record.stages.items()
        if stage.stage == "rl"
    }
    for which in ("base", "sft", "rl"):
        if f"evaluate-{which}" in record.stages:
            outputs[f"evaluation_{which}"] = record.output(f"evaluate-{which}", "evaluation")
    if "sft" in record.stages:
        outputs |= {
            "traces": record.output("synthesize", "traces"),
            "sft": record.output("sft", "checkpoint"),
        }
    result = tasks.report.task.report(_with_notes(current, record), outputs)
    publish_report(current, result)
    return result.outputs


def _with_notes(current: Run, record: RunRecord) -> Run:
    """The run with notes for the report's head: why stages stopped."""
    notes = tuple(f"{label} has not finished: {reason}" for label, reason in record.stopped.items())
    report = current.recipe.report.model_copy(update={"notes": current.recipe.report.notes + notes})
    return replace(current, recipe=current.recipe.model_copy(update={"report": report}))


def checkpoint_of(record: RunRecord, which: str) -> tuple[str, str]:
    """The stage and output of a checkpoint; `rl` is the last finished round's best checkpoint, if kept, or its last."""
    label = label_of(record, which)
    kept = record.stages[label].outputs if label in record.stages else {}
    return label, "best" if "best" in kept else "checkpoint"


def _pass_rates(records: RunRecords, name: str) -> ArtifactRef:
    """The rollouts `<run>/rl-<number>` or the evaluation `<run>/<name>`; ValueError that lists what the run has."""
    run, _, label = name.partition("/")
    if label.startswith("rl-"):
        return records.read(run).output(label, "rollouts")
    return find_evaluation(records, name)


def _cold_start(run: Run) -> tuple[str, str]:
    """The stage and output from which RL starts."""
    return order_of(run, f"{RL.name}-1")[1]["checkpoint"]


def _problem_sections(paths: list[str]) -> list[dict[str, Any]]:
    """Problem files as sections of a recipe, named after the files."""
    section = {"source": "file", "answer": "expression"}
    return [{"name": _set_name(Path(path)), "path": path, **section} for path in paths]


def _set_name(path: Path) -> str:
    """`aime_2024` for `/data/aime 2024.jsonl.gz`: a name of files and metrics."""
    while path.suffix.lower() in (*READERS, *PACKED):
        path = path.with_suffix("")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", path.name).strip("._-") or "problems"
