"""Bootstrapping: samples a checkpoint with live code, keeps correct traces, and trains on them, round after round.

prefect deployment run bootstrap/tiny -p run=demo                     # rejection sampling, SFT, paired gain
"""

from typing import Any, Literal

from prefect import flow

from flows.compare import comparison
from flows.publish import publish_report
from flows.stages import EVALUATION_SETS, PROBLEMS, checkpoint_of
from flows.start import rerun, take
from tasks.evaluate.task import evaluate
from tasks.sft.task import sft
from tasks.shared.artifacts import ArtifactRef
from tasks.synthesize.task import synthesize


@flow(name="bootstrap", flow_run_name="bootstrap-{run}-{checkpoint}")
def bootstrap(
    run: str = "",
    checkpoint: Literal["base", "sft", "rl"] = "sft",
    rounds: int = 1,
    overrides: dict[str, Any] | None = None,
    into: str = "",
    force: bool = False,
) -> dict[str, ArtifactRef]:
    """Sample the training problems with a checkpoint, keep correct traces, train on them; round after round.

    Args:
        run: the run whose recipe and inputs are taken.
        checkpoint: the run's checkpoint to start from.
        rounds: their number; each continues with the checkpoint of the one before.
        overrides: keys of the recipe and their values, such as {"sft.max_steps": 50}.
        into: name under which the outcome is recorded; `<run>-bootstrap` by default.
        force: run again although the same work has been done.
    """
    changes = {"synthesize.mode": "bootstrap"} | (overrides or {})
    current, record = rerun(
        ("synthesize", "sft", "evaluate"), run, "", changes, into or f"{run}-bootstrap", force
    )
    taken = take(record, PROBLEMS | EVALUATION_SETS | {"checkpoint": checkpoint_of(record, checkpoint)}, {})
    policy, sets = taken["checkpoint"], taken["evaluation_sets"]
    evaluations: dict[str, ArtifactRef] = {checkpoint: evaluate(current, checkpoint, policy, sets)}
    outputs: dict[str, ArtifactRef] = {}
    for number in range(1, rounds + 1):
        label = f"bootstrap_{number}"
        traces = synthesize(current, taken["problems"], sets, policy, label=f"synthesize-{number}")
        policy = sft(current, policy, traces, f"sft-{number}")
        evaluations[label] = evaluate(current, label, policy, sets)
        outputs |= {f"traces_{number}": traces, f"checkpoint_{number}": policy}
    report_result = comparison(current, f"{current.name}: rounds of own traces", evaluations, "bootstrap")
    publish_report(current, report_result)
    return outputs | {f"evaluation_{name}": ref for name, ref in evaluations.items()}
