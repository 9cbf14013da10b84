"""Every attack inside the sandbox's own container: default seccomp profile, all capabilities dropped."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tasks.launch.backends.sandbox_container import sandbox_options, wait_until_ready
from tasks.shared.sandbox import ExecutionResult, Interpreter, Status
from tests.integration.sandbox_attacks import ATTACKS, Attack
from tests.integration.sandbox_modes import SETTINGS
from tests.integration.test_sandbox_attacks import LEAKS, SCANNER, fill, outside_world

IMAGE = "tirflow-sandbox"
ISOLATED = replace(SETTINGS, workers=2, slots=3)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Container, Path]]:
    """A running server and the directory of its socket."""
    with tempfile.TemporaryDirectory(prefix="sandbox-container-") as name:
        directory = Path(name)
        owner = directory.stat()
        options = sandbox_options(ISOLATED, directory, f"{owner.st_uid}:{owner.st_gid}")
        container = docker.from_env().containers.run(IMAGE, detach=True, **options)
        try:
            wait_until_ready(container, directory)
            yield container, directory
        finally:
            container.remove(force=True)


@pytest.fixture(scope="module")
def container(server: tuple[Container, Path]) -> Iterator[Interpreter]:
    """A client on the host."""
    with Interpreter(ISOLATED, address=f"{server[1]}/socket") as interpreter:
        yield interpreter


@pytest.fixture(scope="module")
def results(
    container: Interpreter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[ExecutionResult]]]:
    """The results of all attacks at once."""
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


def test_sandbox_container_itself_is_narrow(server: tuple[Container, Path]) -> None:
    """The image has no stage or workflow code and no second language runtime; its root is read-only."""
    script = "ls /opt/tirflow/tasks/shared /opt/tirflow/tasks /opt/python/lib/python3.11/site-packages; touch /opt/x"
    code, output = server[0].exec_run(["/bin/sh", "-c", script])
    assert code != 0
    assert b"Read-only file system" in output
    for absent in ("prefect", "torch", "rl", "evaluate", "pip"):
        assert absent not in output.decode().split()


def test_server_in_the_container_ends_with_its_health(tmp_path: Path) -> None:
    options = sandbox_options(ISOLATED, tmp_path, "0:0")
    container = docker.from_env().containers.run(IMAGE, detach=True, **options)
    try:
        wait_until_ready(container, tmp_path)
        container.stop(timeout=20)
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 0
        assert json.loads(container.logs().splitlines()[-1])["health"]["isolation"] == "landlock"
    finally:
        container.remove(force=True)
