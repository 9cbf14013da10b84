"""Every attack inside the sandbox's own container: default seccomp profile, all capabilities dropped.

`make test-containers`, after the image `tirflow-sandbox` was built (images/sandbox/Dockerfile).
"""

# ruff: noqa: E501 - docker commands are kept whole
from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, replace

import pytest

from tasks.shared.sandbox import ExecutionResult, Interpreter, Status
from tests.integration.sandbox_attacks import ATTACKS, Attack
from tests.integration.sandbox_modes import ROOT, SETTINGS
from tests.integration.test_sandbox_attacks import LEAKS, SCANNER, fill, outside_world

pytestmark = pytest.mark.containers
PROGRAMS = 6


@pytest.fixture(scope="module")
def container() -> Iterator[Interpreter]:
    """A server in a container, and a client on the host."""
    scratch = tuple(f"/scratch/{number}" for number in range(PROGRAMS))
    settings = replace(SETTINGS, isolation="landlock", workers=2, slots=3, scratch_dirs=scratch)
    with tempfile.TemporaryDirectory(prefix="sandbox-container-") as directory:
        command = [
            str(ROOT / "images" / "sandbox" / "run.sh"),
            directory,
            "tirflow-sandbox",
            "4096",
            str(PROGRAMS),
        ]
        environment = {
            **os.environ,
            "SETTINGS": json.dumps(asdict(settings)),
            "SANDBOX_TEST_SECRET": "of the host",
        }
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        answer = json.loads(process.stdout.readline() or '{"failed": "docker run failed; see above"}')
        assert answer.get("isolation") == "landlock", answer
        with Interpreter(settings, address=f"{directory}/socket") as interpreter:
            yield interpreter
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.fixture(scope="module")
def results(
    container: Interpreter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[ExecutionResult]]]:
    """All attacks, let loose together."""
    with outside_world(tmp_path_factory.mktemp("world")) as places:
        places |= {"server_socket": "/run/sandbox/socket", "server_pid": "1"}
        yield {attack.name: container.submit(fill(attack, places)) for attack in ATTACKS}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_held_in_the_container(
    attack: Attack, container: Interpreter, results: dict[str, Future[ExecutionResult]]
) -> None:
    result = results[attack.name].result()
    assert "BREACH" not in result.stdout + result.stderr, result
    assert result.status in attack.statuses, result
    assert attack.also in result.stdout, result
    assert result.isolation == "landlock"
    after = container.run("import os\nprint(1 + 1, os.listdir('.'))")
    assert (after.status, after.stdout) == (Status.OK, "2 []\n"), after


def test_memory_holds_no_other_program_in_the_container(container: Interpreter) -> None:
    marked = "text = 'MARKER-OF-ANOTHER' * 50\nprint(text[:7])\nimport time; time.sleep(0.3)"
    others = [container.submit(marked) for _ in range(12)]
    result = container.run(SCANNER, limits=replace(SETTINGS.limits, wall_s=8.0, cpu_s=8.0))
    assert result.stdout == "True clean\n", result
    assert all(other.result().stdout == "MARKER-\n" for other in others)


@pytest.mark.parametrize("name", LEAKS)
def test_state_does_not_leak_in_the_container(name: str, container: Interpreter) -> None:
    plant, look = LEAKS[name]
    assert container.run(plant).status is Status.OK
    for _ in range(8):
        assert container.run(look).stdout == "False\n"


def test_sandbox_container_itself_is_narrow(container: Interpreter) -> None:
    """No stage or workflow code and no second language runtime in the image; the root cannot be written."""
    script = "ls /opt/tirflow/tasks/shared /opt/tirflow/tasks; touch /opt/x; ls /opt/python/lib/python3.11/site-packages"
    listing = subprocess.run(
        ["docker", "run", "--rm", "--read-only", "--network", "none", "--entrypoint", "/bin/sh", "tirflow-sandbox", "-c", script],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Read-only file system" in listing.stderr
    for absent in ("prefect", "torch", "rl", "evaluate", "pip"):
        assert absent not in listing.stdout.split()


def test_server_in_the_container_ends_with_its_health() -> None:
    name = f"sandbox-test-{os.getpid()}"
    command = [
        "docker",
        "run",
        "--detach",
        "--init",
        "--name",
        name,
        "--network",
        "none",
        "--tmpfs",
        "/run/sandbox",
        "tirflow-sandbox",
    ]
    subprocess.run([*command, "--socket", "/run/sandbox/socket"], check=True, capture_output=True, timeout=60)

    def docker(*arguments: str) -> str:
        return subprocess.run(
            ["docker", *arguments], check=True, capture_output=True, text=True, timeout=60
        ).stdout

    try:
        deadline = time.monotonic() + 30
        while "ready" not in docker("logs", name) and time.monotonic() < deadline:
            time.sleep(0.2)
        docker("stop", "--time", "20", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name) == "0\n"
        assert json.loads(docker("logs", name).splitlines()[-1])["health"]["isolation"] == "landlock"
    finally:
        docker("rm", "--force", name)
