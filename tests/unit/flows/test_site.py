"""prefect.yaml placed on several machines: pipelines order stages, stages run in containers where they land."""

import yaml

from flows.cluster import ROOT
from flows.site import placed
from tasks.shared.config import STAGE_CONFIGS


def test_every_deployment_has_its_pool() -> None:
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    entries = placed(document, "docker")["deployments"]
    assert len(entries) == len(document["deployments"]) + 2
    by_pool: dict[str, set[str]] = {"control": set(), "gpu": set()}
    for entry in entries:
        pool = entry["work_pool"]
        by_pool[pool["name"]].add(entry["entrypoint"])
        backend = pool["job_variables"]["env"]["TIRFLOW_BACKEND"]
        assert backend == ("workers" if pool["name"] == "control" else "docker")
        assert pool["job_variables"]["stream_output"] is False
    assert by_pool["gpu"] == {f"flows.stages.{stage}" for stage in STAGE_CONFIGS} | {
        "flows.worker.stage",
        "flows.worker.node",
    }
    nightly = next(entry for entry in entries if entry["name"] == "nightly")
    assert nightly["work_pool"]["job_variables"]["env"]["TIRFLOW_STAGE_QUEUE"] == "nightly"
    assert nightly["schedules"]
