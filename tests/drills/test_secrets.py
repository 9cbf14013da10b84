"""Drills on secrets: canaries in every variable that may hold one are searched for in everything that a run leaves."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.launch.backends.attempt import run_on_backend
from tasks.launch.backends.process import ProcessBackend
from tasks.shared.contract.environment import SINK_VARIABLES, STORE_SECRETS
from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings
from tests.flows.conftest import Prefect, prefect, small
from tests.integration.synthesis_world import KEPT_ALIKE, make_request
from tests.integration.teacher_server import serve

__all__ = ["prefect"]  # the fixture of tests/flows

OTHERS = (
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "HF_TOKEN",
    "GITHUB_TOKEN",
    "OPENAI_API_KEY",
    "TEACHER_KEY",
)
LOOK = """
import glob, os
seen = [str(dict(os.environ))]
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):
    try:
        seen.append(open(path, errors='replace').read())
    except OSError:
        pass
print(' '.join(seen))
"""


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A secret in each variable."""
    secrets = {name: f"canary-{name.lower()}-93c1" for name in (*STORE_SECRETS, *SINK_VARIABLES, *OTHERS)}
    secrets.pop("AWS_ENDPOINT_URL")
    secrets.pop("MLFLOW_TRACKING_URI")
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    return secrets


def found(folder: Path, secrets: dict[str, str]) -> Iterator[str]:
    """Files below `folder` with a secret in them."""
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            yield from (f"{name} in {path}" for name, value in secrets.items() if value.encode() in content)


def test_canaries(
    tmp_path: Path, canaries: dict[str, str], saw: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Canaries in the environment and in an endpoint's replies are in no artifact, manifest, log, request or event."""
    monkeypatch.setenv("TIRFLOW_HOME", str(tmp_path / "home"))
    events: list[str] = []
    with serve() as server:
        request = make_request(
            tmp_path,
            ["honest", "echoes_key", "honest", "echoes_key"],
            server.base_url,
            teacher={"key_variable": "TEACHER_KEY"},
        )
        run_on_backend(
            request, ProcessBackend(), tmp_path / "log.txt", lambda event: events.append(str(event))
        )
        assert {asked.authorization for asked in server.asked} == {f"Bearer {canaries['TEACHER_KEY']}"}
    assert list(found(tmp_path, canaries)) == []
    assert not any(value in event for value in canaries.values() for event in events)
    searched = sum(path.is_file() for path in tmp_path.rglob("*"))
    saw(f"{len(canaries)} canaries, {searched} files and {len(events)} events searched")


def test_the_interpreter_sees_none(canaries: dict[str, str], saw: Callable[[str], None]) -> None:
    """A program in the interpreter searches its environment and every visible process: it finds no canary."""
    with Interpreter(SandboxSettings(limits=Limits(wall_s=3.0, output_chars=200_000), workers=1)) as running:
        result = running.run(LOOK)
    assert result.stdout.strip(), result
    assert not any(value in result.stdout + result.stderr for value in canaries.values())
    saw(f"{len(result.stdout)} characters of output searched")


def start_with_secret(prefect: Prefect, deployment: str, parameters: dict[str, object]) -> UUID:
    """A run whose process gets TEACHER_KEY from the Secret block `teacher-key`, which the worker resolves."""
    variables = {"env": {"TEACHER_KEY": "{{ prefect.blocks.secret.teacher-key }}"}}
    with SyncPrefectClient(prefect.cluster.api_url) as client:
        found = client.read_deployment_by_name(deployment)
        made = client.create_flow_run_from_deployment(
            found.id, parameters=parameters, job_variables=variables
        )
    return made.id


@pytest.mark.long
def test_canary_in_a_block(tmp_path: Path, prefect: Prefect, saw: Callable[[str], None]) -> None:
    """An endpoint echoes its key from a Prefect Secret block: the key is used and in no file, not even Prefect's."""
    canary = "canary-of-the-block-5e77"
    with temporary_settings({PREFECT_API_URL: prefect.cluster.api_url}):
        Secret(value=canary).save("teacher-key")
    cases = ["honest", "echoes_key", "honest", "echoes_key"]
    rows = [
        {"problem": f"Case {case}. What is {23 + i} * 17 + 5?", "answer": (23 + i) * 17 + 5}
        for i, case in enumerate(cases)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "sums", "source": "file", "path": str(tmp_path / "rows.jsonl"), "answer": "expression"}
    with serve() as server:
        teacher = {"base_url": server.base_url, "model": "teacher-1", "key_variable": "TEACHER_KEY"}
        changes = small(
            **{
                "data.train": [source],
                "synthesize.mode": "live",
                "synthesize.selection": KEPT_ALIKE,
                "synthesize.teacher": teacher,
            }
        )
        for deployment in ("prepare/local", "synthesize/local"):
            parameters = {"run": "secret", "recipe": "tiny", "overrides": changes}
            ended = prefect.wait(start_with_secret(prefect, deployment, parameters))
            assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
        assert {asked.authorization for asked in server.asked} == {f"Bearer {canary}"}
    assert prefect.record("secret").stages["synthesize"].metrics["written"] == len(rows)
    assert list(found(prefect.home, {"the block's": canary})) == []
    searched = sum(path.is_file() for path in prefect.home.rglob("*"))
    saw(
        f"{len(server.asked)} requests with the key; {searched} files of the home searched, server's database too"
    )
