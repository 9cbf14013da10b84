"""The whole pipeline: prepare, synthesize, SFT, RL rounds, evaluate, report.

prefect deployment run train/tiny -p run=demo
"""

from typing import Any

from prefect import flow

from flows.publish import publish_report
from flows.start import named_after, start
from tasks.evaluate.task import evaluate
from tasks.launch import Run
from tasks.prepare.task import prepare
from tasks.report.task import report
from tasks.rl.task import rl
from tasks.sft.task import sft
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.stage import StageResult
from tasks.synthesize.task import synthesize


@flow(name="train", flow_run_name=named_after("recipe", "run"))
def train(
    recipe: str = "tiny", run: str = "", overrides: dict[str, Any] | None = None, force: bool = False
) -> dict[str, ArtifactRef]:
    """Base model to SFT to RL, with scores and a report; finished stages are reused.

    Args:
        recipe: one of `tirflow recipes`, or a file.
        run: name of the run, by default the recipe's; an existing run is continued.
        overrides: keys of the recipe and their values, such as {"sft.max_steps": 50}.
        force: run every stage again, finished ones too.
    """
    current = start(recipe, run, overrides or {}, force)
    if current.recipe.evaluate.endpoint.is_asked:
        raise ValueError(
            "evaluate.endpoint serves one checkpoint and train evaluates several: set it for evaluate/local"
        )
    outputs, report_result = stages(current)
    publish_report(current, report_result)
    return outputs


def stages(run: Run) -> tuple[dict[str, ArtifactRef], StageResult]:
    """Run every stage in order; return the artifacts and the report."""
    recipe = run.recipe
    data = prepare(run)
    outputs: dict[str, ArtifactRef] = {}

    def score(which: str, checkpoint: ArtifactRef) -> None:
        if which in recipe.evaluate.checkpoints:
            outputs[f"evaluation_{which}"] = evaluate(run, which, checkpoint, data.evaluation_sets)

    checkpoint = data.checkpoint
    score("base", checkpoint)
    if recipe.cold_start:
        outputs["traces"] = synthesize(run, data.problems, data.evaluation_sets)
        outputs["sft"] = checkpoint = sft(run, data.checkpoint, outputs["traces"])
        score("sft", checkpoint)

    reference = checkpoint if recipe.rl.kl_coefficient or recipe.rl.optimizer.lora else None
    state = best = None
    for number in range(1, recipe.rl.num_rounds + 1):
        latest = rl(run, number, checkpoint, data.problems, state, reference, data.evaluation_sets, best)
        checkpoint, state, best = latest.checkpoint, latest.trainer_state, latest.best
        outputs[f"rollouts_{number}"] = latest.rollouts
    checkpoint = best or checkpoint
    score("rl", checkpoint)

    report_result = report(run, outputs)
    return {**outputs, "checkpoint": checkpoint}, report_result
