"""The Prefect task of `rl`: one round."""

from dataclasses import dataclass

from tasks.launch import Run, run_stage
from tasks.rl.reward_function import source_of
from tasks.rl.spec import RL
from tasks.shared.artifacts import ArtifactRef


@dataclass(frozen=True, slots=True)
class Round:
    """The outputs of a round for the next one."""

    checkpoint: ArtifactRef
    rollouts: ArtifactRef
    trainer_state: ArtifactRef  # optimizer, random state, data cursor
    adapter: ArtifactRef | None = None  # with rl.optimizer.lora
    best: ArtifactRef | None = None  # with rl.keep = "best": the best checkpoint of all rounds so far


def rl(
    run: Run,
    number: int,
    checkpoint: ArtifactRef,
    problems: ArtifactRef,
    trainer_state: ArtifactRef | None = None,
    reference: ArtifactRef | None = None,
    evaluation_sets: ArtifactRef | None = None,
    best: ArtifactRef | None = None,
) -> Round:
    """Round `number`, counted from 1, with the recipe's changes for it.

    `trainer_state`: of the round before, None for the first; `reference`: the policy of the KL term, and with
    adapters their base; `evaluation_sets`: for rl.evaluate_every_steps; `best`: of the round before.
    """
    inputs = {"checkpoint": checkpoint, "problems": problems}
    if trainer_state:
        inputs["trainer_state"] = trainer_state
    if reference:
        inputs["reference"] = reference
    run = run.in_round(number)
    if run.recipe.rl.evaluate_every_steps:
        if evaluation_sets is None:
            raise ValueError("rl.evaluate_every_steps needs input 'evaluation_sets', an output of prepare")
        inputs["evaluation_sets"] = evaluation_sets
        if best and run.recipe.rl.keep == "best":
            inputs["best"] = best
    source = source_of(run.recipe.rl.reward)
    files = (source,) if source else ()
    outputs = run_stage(run, RL, inputs, label=f"rl-{number}", files=files).outputs
    return Round(
        outputs["checkpoint"],
        outputs["rollouts"],
        outputs["trainer_state"],
        outputs.get("adapter"),
        outputs["best"] if run.recipe.rl.keep == "best" else None,
    )
