"""Move a tag to a checkpoint, unless it is significantly worse than the checkpoint that holds the tag.

prefect deployment run promote/promote -p run=demo            # the newest checkpoint of the run becomes `promoted`
"""

from typing import Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.compare import comparison
from flows.publish import artifact_key
from flows.start import note_record
from flows.tagged import label_of, recipe_of
from tasks.evaluate.task import evaluate
from tasks.launch import Run
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.contract.environment import store_uri
from tasks.shared.reporting.evaluated import read_evaluated, shared_sets
from tasks.shared.reporting.nights import promotion_gate
from tasks.shared.runs.record import RunRecords
from tasks.shared.runs.tags import PROMOTED, Tagged, Tags

STAGE_NAMES = {"prepare": "base", "sft": "sft", "rl": "rl"}  # what the checkpoint of a stage is called


class PromotionRefused(RuntimeError):
    """The gate refused to move the tag."""


@flow(name="promote", flow_run_name="promote-{run}-{checkpoint}")
def promote(
    run: str,
    checkpoint: Literal["latest", "base", "sft", "rl"] = "latest",
    tag: str = PROMOTED,
    threshold: float = 0.0,
) -> ArtifactRef:
    """Move a tag to a checkpoint, unless the gate refuses: then the flow run fails and the tag stays.

    Both checkpoints are evaluated with the candidate's settings on the candidate's sets.

    Args:
        run: the run that made the checkpoint.
        checkpoint: which checkpoint of the run.
        tag: the tag to move.
        threshold: refused where on any set the paired 95 % interval (candidate minus holder of the tag, as shares)
            lies wholly below it; -0.02 allows a loss of two points.
    """
    records, tags = RunRecords(store_uri()), Tags(store_uri())
    record, holder = records.read(run), tags.current(tag)
    label = label_of(record, checkpoint)
    candidate, sets = record.checkpoint(label), record.output("prepare", "evaluation_sets")
    current = Run(run, recipe_of(record))
    note_record(run)
    evaluation = evaluate(current, STAGE_NAMES[label.partition("-")[0]], candidate, sets)
    reason = f"first to carry the tag '{tag}'"
    if holder is not None:
        as_candidate = {
            "evaluate": current.recipe.evaluate,
            "generation": current.recipe.generation,
            "seed": current.recipe.seed,
        }
        recipe = recipe_of(records.read(holder.run)).model_copy(update=as_candidate)
        held = evaluate(Run(run, recipe), f"holder-of-{tag}", holder.checkpoint, sets)
        reason = _pass_gate(current, tag, held, evaluation, threshold)
    moved = Tagged(run=run, checkpoint=candidate, evaluation_sets=sets, evaluation=evaluation, reason=reason)
    tags.move(tag, moved)
    _publish(tag, f"carried by {run}/{label} since now: {reason}")
    return candidate


def _pass_gate(current: Run, tag: str, held: ArtifactRef, evaluation: ArtifactRef, threshold: float) -> str:
    """The gate's reasons for every set. PromotionRefused, with the report's location, if it refuses one."""
    title, sides = f"Promotion to {tag}", {"holder of the tag": held, "candidate": evaluation}
    result = comparison(current, title, sides, f"promotion-{tag}")
    store = Store(current.store)
    pairs = shared_sets(read_evaluated(store, held), read_evaluated(store, evaluation))
    gates = {name: promotion_gate(before, after, threshold) for name, before, after in pairs}
    reasons = "; ".join(f"{name} {gate.reason}" for name, gate in gates.items())
    if not all(gate.promote for gate in gates.values()):
        location = f"{store.describe(result.outputs['report'])}/report.html"
        _publish(tag, f"not moved: {reasons} ({location})")
        raise PromotionRefused(f"tag '{tag}' stays where it is: {reasons}; report: {location}")
    return reasons


def _publish(tag: str, words: str) -> None:
    create_markdown_artifact(f"# {tag}\n\n{words}", key=artifact_key(f"tag-{tag}"), description=f"Tag {tag}")
