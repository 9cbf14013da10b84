"""The nightly evaluation: the latest checkpoint of a run on fresh samples, on a cron schedule.

prefect deployment run nightly/nightly -p run=demo
"""

from datetime import UTC, datetime
from typing import Literal

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.publish import artifact_key, scores_of
from flows.start import rerun
from tasks.evaluate.task import evaluate
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.environment import store_uri
from tasks.shared.runs import RunRecords


@flow(name="nightly", flow_run_name="nightly-{run}")
def nightly(run: str = "", checkpoint: Literal["base", "sft", "rl"] = "rl") -> ArtifactRef:
    """Evaluate the latest checkpoint of `run` (by default the run that was updated last) with tonight's own seed."""
    names = RunRecords(store_uri()).names()
    if not run and not names:
        raise ValueError(
            f"nightly: no run in {store_uri()} yet; train one: prefect deployment run train/tiny"
        )
    job, record = rerun(run or names[0], "", {}, "", False)
    label = {"base": "prepare", "sft": "sft", "rl": f"rl-{record.last_round or 1}"}[checkpoint]
    night = datetime.now(UTC).date().isoformat()
    sets = record.output("prepare", "evaluation_sets")
    evaluation = evaluate(
        job, f"{checkpoint}-{night}", record.output(label, "checkpoint"), sets, f"nightly/{night}"
    )
    rows = scores_of(RunRecords(job.store).read(job.name))
    create_table_artifact(
        rows, key=f"{artifact_key(job.name)}-nightly", description=f"Run {job.name} by night"
    )
    return evaluation
