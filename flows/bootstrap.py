"""Bootstrapping: samples a checkpoint with live code, keeps correct traces, and trains on them, round after round.

prefect deployment run bootstrap/tiny -p run=demo                     # rejection sampling, SFT, paired gain
"""

from dataclasses import replace
from typing import Literal

from flows.compare import comparison
from flows.forms import Count, Form, Refs, flow_of_stages
from flows.publish import publish_report
from flows.stages import EVALUATION_SETS, PROBLEMS, checkpoint_of
from flows.start import rerun, take
from tasks.evaluate.task import evaluate
from tasks.sft.task import sft
from tasks.synthesize.task import synthesize


@flow_of_stages("bootstrap-{run}-{checkpoint}", without="recipe inputs")
def bootstrap(form: Form, checkpoint: Literal["base", "sft", "rl"] = "sft", rounds: Count = 1) -> Refs:
    """Sample the training problems with a checkpoint, keep correct traces, train on them; round after round.

    Args:
        checkpoint: the run's checkpoint to start from.
        rounds: their number; each continues with the checkpoint of the one before.
        into: name under which the outcome is recorded; `<run>-bootstrap` by default.
    """
    changes = {"synthesize.mode": "bootstrap"} | (form.overrides or {})
    asked = replace(form, overrides=changes, into=form.into or f"{form.run}-bootstrap")
    current, record = rerun(asked, "synthesize", "sft", "evaluate")
    taken = take(record, PROBLEMS | EVALUATION_SETS | {"checkpoint": checkpoint_of(record, checkpoint)})
    latest, sets = taken["checkpoint"], taken["evaluation_sets"]
    evaluations: Refs = {checkpoint: evaluate(current, checkpoint, latest, sets)}
    outputs: Refs = {}
    for number in range(1, rounds + 1):
        label = f"bootstrap_{number}"
        traces = synthesize(current, taken["problems"], sets, latest, label=f"synthesize-{number}")
        latest = sft(current, latest, traces, f"sft-{number}")
        evaluations[label] = evaluate(current, label, latest, sets)
        outputs |= {f"traces_{number}": traces, f"checkpoint_{number}": latest}
    report_result = comparison(current, f"{current.name}: rounds of own traces", evaluations, "bootstrap")
    publish_report(current, report_result)
    return outputs | {f"evaluation_{name}": ref for name, ref in evaluations.items()}
