"""The site of images/compose.yaml runs a pipeline, each stage in a container that its worker starts.

Needs Docker with the compose plugin and the images sandbox, train and orchestrator of these sources; ports 4200, 5432
and 9000. Postgres and the S3 server are stand-ins, made from Debian's Postgres and moto. No registry is used.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest

from flows.commands.follow import start_run
from flows.server.deployments import ROOT
from tasks.shared.runs.record import RunRecords
from tests.flows.conftest import FINAL_STATES, small
from tests.waiting import until

pytestmark = [
    pytest.mark.timeout(2400),
    pytest.mark.containers,
]  # seven containers and a pipeline in more of them
API = "http://127.0.0.1:4200/api"
STORE = "s3://tirflow/store"
COMPOSE = ["docker", "compose", "-f", str(ROOT / "images" / "compose.yaml")]
USER_OF_IMAGES = 1000
KEYS = {"AWS_ACCESS_KEY_ID": "of-this-site", "AWS_SECRET_ACCESS_KEY": "of-this-site-alone"}
PLACE = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "AWS_DEFAULT_REGION": "us-east-1"}

POSTGRES = """
FROM tirflow-base
ARG MIRROR
RUN echo "deb $MIRROR bookworm main" > /etc/apt/sources.list && apt-get update && apt-get install -y postgresql
ENV PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin
RUN mkdir -p /var/lib/postgresql/data && chown postgres /var/lib/postgresql/data
USER postgres
CMD initdb --encoding UTF8 --locale C -D /var/lib/postgresql/data \
    && { until createdb "$POSTGRES_DB"; do sleep 1; done & } \
    && exec postgres -D /var/lib/postgresql/data -c listen_addresses=127.0.0.1
"""  # trusts every client of this host, so the password of compose.yaml is not checked
S3 = """
FROM tirflow-base
COPY wheels /wheels
RUN python3 -m venv /opt/s3 && /opt/s3/bin/pip install --no-index --find-links /wheels "moto[server]"
ENTRYPOINT ["/bin/sh", "-c", "exec /opt/s3/bin/moto_server -H 127.0.0.1 -p 9000"]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a running site, which is removed with its volumes."""
    if subprocess.run([*COMPOSE[:2], "version"], capture_output=True, check=False).returncode:
        pytest.fail("docker compose: not found; install Docker's compose plugin, 2.20 or later")
    root = tmp_path_factory.mktemp("site")
    for above in (root, *root.parents[:2]):
        above.chmod(0o755)
    home = root / "home"
    home.mkdir()
    shutil.chown(home, USER_OF_IMAGES, USER_OF_IMAGES)
    environment = os.environ | KEYS | {
        "TIRFLOW_HOME": str(home),
        "TIRFLOW_STORE": STORE,
        "POSTGRES_PASSWORD": "not-asked-for",
        "POSTGRES_IMAGE": _stand_in("postgres", POSTGRES, root / "postgres"),
        "STORE_IMAGE": _stand_in("s3", S3, root / "s3"),
        "DOCKER_GROUP": str(os.stat("/var/run/docker.sock").st_gid),
    }  # fmt: skip
    try:
        subprocess.run([*COMPOSE, "up", "--detach"], env=environment, check=True)
        yield home
    finally:
        log = subprocess.run([*COMPOSE, "logs"], env=environment, capture_output=True, check=False)
        (root / "compose.log").write_bytes(log.stdout)
        subprocess.run([*COMPOSE, "down", "--volumes"], env=environment, check=True)


def _stand_in(name: str, dockerfile: str, context: Path) -> str:
    """The id of an image built from a Dockerfile."""
    (context / "wheels").mkdir(parents=True)
    (context / "Dockerfile").write_text(dockerfile)
    if name == "s3":
        command = ["-m", "pip", "wheel", "--quiet", "--wheel-dir", str(context / "wheels"), "moto[server]"]
        lock = ROOT / "images" / "locks" / "embedded.txt"
        subprocess.run([sys.executable, *command, "--constraint", str(lock)], check=True)
    targets = [
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Codename: bookworm",
    ]
    mirror = subprocess.run(targets, capture_output=True, text=True, check=True).stdout.split()[0]
    tag = f"tirflow-stand-in-{name}"
    build = ["docker", "build", "--quiet", "--network", "host", "--build-arg", f"MIRROR={mirror}", "-t", tag]
    subprocess.run([*build, str(context)], check=True, stdout=subprocess.DEVNULL)
    return str(docker.from_env().images.get(tag).id)


def test_a_pipeline_runs_on_the_composed_site(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: _is_deployed("train/tiny"))
    flow_run = start_run(API, "train/tiny", {"run": "composed", "overrides": small()})
    until(lambda: _state(flow_run) in FINAL_STATES, timeout_s=1800)
    assert _state(flow_run) == "COMPLETED"
    for name, value in (KEYS | PLACE).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TIRFLOW_HOME", str(home))
    record = RunRecords(STORE).read("composed")
    assert {"prepare", "synthesize", "sft", "rl-1", "evaluate-rl", "report"} <= set(record.stages)
    assert not docker.from_env().containers.list(filters={"label": "tirflow.scratch"}), (
        "a stage's container is left"
    )


def _is_deployed(deployment: str) -> bool:
    try:
        return httpx.get(f"{API}/deployments/name/{deployment}", timeout=10).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _state(flow_run: object) -> str:
    answer = httpx.get(f"{API}/flow_runs/{flow_run}", timeout=60)
    return "" if answer.is_server_error else str(answer.raise_for_status().json()["state_type"])
