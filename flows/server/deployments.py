"""Deploy prefect.yaml to a server, and keep what people changed there about schedules.

Once a deployment exists, its schedule belongs to the server: paused, cleared or moved, it stays so. It is written again
only when the schedules in the file change. A variable of the server remembers the file's schedules.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate, WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = ROOT / "prefect.yaml"
VARIABLE = "tirflow_schedules"  # the file's schedules at the last deployment, by deployment
Document = dict[str, Any]


def read_deployments() -> Document:
    """Read prefect.yaml."""
    document = yaml.safe_load(DEPLOYMENTS.read_text())
    assert isinstance(document, dict)
    return document


def make_pool(name: str, client: SyncPrefectClient) -> None:
    """Make a pool of processes unless it exists. What people changed of it on the server (limit, pause) stays."""
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def deploy(document: Document, client: SyncPrefectClient, environment: Mapping[str, str]) -> str:
    """Run `prefect deploy --all` on a document. Returns its output. Raises ValueError if it fails."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "prefect.yaml"
        path.write_text(yaml.safe_dump(_without_kept_schedules(document, client)))
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        result = subprocess.run(
            [*command, "--prefect-file", str(path)], cwd=ROOT, env=environment, capture_output=True, text=True
        )
    output = result.stdout + result.stderr
    if result.returncode or "skipp" in output.lower():
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
        raise ValueError(f"prefect deploy failed: {last.strip()}; correct {DEPLOYMENTS}")
    _remember(_schedules(document), client)
    return output


def _without_kept_schedules(document: Document, client: SyncPrefectClient) -> Document:
    """Return the document without the schedules that belong to the server."""
    variable = client.read_variable_by_name(VARIABLE)
    before = variable.value if variable and isinstance(variable.value, dict) else {}
    kept = {
        name
        for name, schedules in _schedules(document).items()
        if before.get(name, schedules) == schedules and _exists(name, client)
    }
    entries = [
        {key: value for key, value in entry.items() if key != "schedules" or _name(entry) not in kept}
        for entry in document["deployments"]
    ]
    return {**document, "deployments": entries}


def _schedules(document: Document) -> dict[str, Any]:
    """Return the schedules in a document by deployment."""
    return {_name(entry): entry["schedules"] for entry in document["deployments"] if "schedules" in entry}


def _name(entry: Mapping[str, Any]) -> str:
    """Return `<flow>/<deployment>`. Flows are named after their functions."""
    return f"{entry['entrypoint'].rpartition('.')[2]}/{entry['name']}"


def _exists(name: str, client: SyncPrefectClient) -> bool:
    try:
        client.read_deployment_by_name(name)
    except ObjectNotFound:
        return False
    return True


def _remember(schedules: dict[str, Any], client: SyncPrefectClient) -> None:
    if client.read_variable_by_name(VARIABLE) is None:
        client.create_variable(VariableCreate(name=VARIABLE, value=schedules))
    else:
        client.update_variable(VariableUpdate(name=VARIABLE, value=schedules))
