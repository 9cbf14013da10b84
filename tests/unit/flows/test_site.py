"""prefect.yaml for several machines: pipelines order stages, stages run in containers."""

from pathlib import Path

import pytest
import yaml

from flows.server.deployments import ROOT
from flows.site import make_bucket, placed
from tasks.recipes import STAGES
from tasks.shared.artifacts import Store
from tests.artifacts import publish


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
    by_themselves = {entry["entrypoint"] for entry in entries} & {f"flows.stages.{stage}" for stage in STAGES}
    assert by_pool["gpu"] == by_themselves | {"flows.worker.stage", "flows.worker.node"}
    nightly = next(entry for entry in entries if entry["name"] == "nightly")
    assert nightly["work_pool"]["job_variables"]["env"]["TIRFLOW_STAGE_QUEUE"] == "nightly"
    assert nightly["schedules"]


def test_a_new_store_gets_its_bucket(bucket: str, tmp_path: Path) -> None:
    uri = "s3://of-a-new-site/store"
    for _ in range(2):
        make_bucket(uri)
    store = Store(uri, cache=tmp_path)
    ref = publish(store, "traces", {"rows": "one"})
    assert (store.fetch(ref) / "rows").read_text() == "one"


def test_an_invalid_bucket_name_is_one_line(bucket: str) -> None:
    with pytest.raises(
        ValueError, match="TIRFLOW_STORE = s3://No Bucket/store: no bucket can be called 'No Bucket'"
    ):
        make_bucket("s3://No Bucket/store")
