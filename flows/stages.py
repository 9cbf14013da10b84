"""Each stage as a flow of its own: run it again, or with changed parameters, on the inputs that a run had.

    prefect deployment run sft/local -p run=demo -p overrides='{"sft.max_steps": 50}'

Parameters that all of them have are described in `forms.py`.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import tasks.evaluate.task
import tasks.prepare.task
import tasks.report.task
import tasks.rl.task
import tasks.sft.task
import tasks.synthesize.task
from flows.forms import Count, Form, Refs, flow_of_stages
from flows.names import evaluation_of
from flows.orders import order_of
from flows.publish import publish_report
from flows.start import Inputs, rerun, take
from flows.tagged import label_of
from tasks.evaluate.spec import evaluations
from tasks.launch import Run, run_stage
from tasks.recipes import Recipe, find_stage
from tasks.rl.spec import RL
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.rows.raw import PACKED, READERS
from tasks.shared.runs.record import RunRecord, RunRecords

PROBLEMS: Inputs = {"problems": ("prepare", "problems")}
EVALUATION_SETS: Inputs = {"evaluation_sets": ("prepare", "evaluation_sets")}


@flow_of_stages("prepare-{run}", without="inputs")
def prepare(form: Form) -> Refs:
    """Base model and problem sets."""
    current, _ = rerun(form, "prepare")
    prepared = tasks.prepare.task.prepare(current)
    return {
        "checkpoint": prepared.checkpoint,
        "problems": prepared.problems,
        "evaluation_sets": prepared.evaluation_sets,
    }


@flow_of_stages("synthesize-{run}")
def synthesize(form: Form, responses: str = "", pass_rates: str = "") -> Refs:
    """Traces of a teacher, every code block verified.

    Args:
        responses: a run whose teacher's responses are reused, so that only missing ones are requested.
        pass_rates: the difficulty of each problem: `<run>/rl-<number>`, the rollouts of that round, or `<run>/<name>`,
            an evaluation of the training problems.
    """
    current, record = rerun(form, "synthesize")
    sources = PROBLEMS | EVALUATION_SETS
    if current.recipe.synthesize.mode == "bootstrap":
        sources["checkpoint"] = _cold_start(current)
    taken = take(record, sources, form.inputs)
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


@flow_of_stages("sft-{run}")
def sft(form: Form) -> Refs:
    """A checkpoint fine-tuned on traces."""
    current, record = rerun(form, "sft")
    sources: Inputs = {"checkpoint": ("prepare", "checkpoint"), "traces": ("synthesize", "traces")}
    taken = take(record, sources, form.inputs)
    return {"checkpoint": tasks.sft.task.sft(current, taken["checkpoint"], taken["traces"])}


@flow_of_stages("rl-{run}-{number}")
def rl(form: Form, number: Count = 1) -> Refs:
    """One RL round, which continues the round before.

    Args:
        number: of the round, from 1.
    """
    current, record = rerun(form, "rl")
    sources = inputs_of_round(current, record, number)
    result = tasks.rl.task.rl(current, number, **take(record, sources, form.inputs))
    return {
        "checkpoint": result.checkpoint,
        "rollouts": result.rollouts,
        "trainer_state": result.trainer_state,
    }


@flow_of_stages("again-{run}-{label}", without="recipe")
def again(form: Form, label: str = "") -> Refs:
    """Any stage of a run's pipeline by itself.

    Args:
        label: of the stage in the run's record, such as sft, rl-2 or evaluate-rl.
    """
    current, record = rerun(form, label.partition("-")[0])
    order, sources = order_of(current, label)
    taken = order.inputs | take(record, sources, form.inputs)
    as_ordered = replace(current, recipe=Recipe.model_validate(order.recipe))
    spec = find_stage(order.stage)
    return run_stage(as_ordered, spec, taken, label, order.seed_label, order.files).outputs


@flow_of_stages("evaluate-{run}-{checkpoint}")
def evaluate(
    form: Form, checkpoint: Literal["base", "sft", "rl"] = "rl", problems: list[str] | None = None
) -> Refs:
    """Scores of one checkpoint, with intervals.

    Args:
        checkpoint: which checkpoint of the run.
        problems: files with columns problem and answer, by absolute path, in place of the recipe's sets.
    """
    given = form.inputs or {}
    if problems:
        own_sets = {"data.evaluation": _problem_sections(problems)}
        current, record = rerun(
            replace(form, overrides=(form.overrides or {}) | own_sets), "prepare", "evaluate"
        )
        given = {"evaluation_sets": tasks.prepare.task.prepare(current).evaluation_sets, **given}
    else:
        current, record = rerun(form, "evaluate")
    taken = take(record, EVALUATION_SETS | {"checkpoint": checkpoint_of(record, checkpoint)}, given)
    evaluation = tasks.evaluate.task.evaluate(
        current, checkpoint, taken["checkpoint"], taken["evaluation_sets"]
    )
    return {"evaluation": evaluation}


@flow_of_stages("report-{run}", without="recipe inputs")
def report(form: Form) -> Refs:
    """The report of what a run has finished so far."""
    current, record = rerun(form, "report")
    outputs = {
        f"rollouts_{label.removeprefix('rl-')}": stage.outputs["rollouts"]
        for label, stage in record.stages.items()
        if stage.stage == "rl"
    }
    for which, stage in evaluations(record.stages).items():
        if which in ("base", "sft", "rl"):
            outputs[f"evaluation_{which}"] = stage.outputs["evaluation"]
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


def inputs_of_round(run: Run, record: RunRecord, number: int) -> Inputs:
    """The sources of what an RL round reads, also of one beyond the pipeline's last."""
    config, before = run.in_round(number).recipe.rl, f"rl-{number - 1}"
    sources = PROBLEMS | {"checkpoint": (before, "checkpoint") if number > 1 else _cold_start(run)}
    if number > 1:
        sources["trainer_state"] = (before, "trainer_state")
    if config.kl_coefficient or config.optimizer.lora:
        sources["reference"] = _cold_start(run)
    if config.evaluate_every_steps:
        sources |= EVALUATION_SETS
    if config.keep == "best" and before in record.stages and "best" in record.stages[before].outputs:
        sources["best"] = (before, "best")
    return sources


def _pass_rates(records: RunRecords, name: str) -> ArtifactRef:
    """The rollouts `<run>/rl-<number>` or the evaluation `<run>/<name>`; ValueError that lists what the run has."""
    run, _, label = name.partition("/")
    if label.startswith("rl-"):
        return records.read(run).output(label, "rollouts")
    return evaluation_of(records, name)


def _cold_start(run: Run) -> tuple[str, str]:
    """The stage and output from which RL starts."""
    return order_of(run, f"{RL.name}-1")[1]["checkpoint"]


def _problem_sections(paths: list[str]) -> list[dict[str, Any]]:
    """Problem files as sections of a recipe, named after the files: `aime_2024` for `/data/aime 2024.jsonl.gz`."""
    sections = []
    for path in paths:
        bare = Path(path)
        while bare.suffix.lower() in (*READERS, *PACKED):
            bare = bare.with_suffix("")
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", bare.name).strip("._-") or "problems"
        sections.append({"name": name, "path": path, "source": "file", "answer": "expression"})
    return sections
