"""The interpreter in a container of its own, beside a stage. The container's options are part of the isolation.

    python -m tasks.launch.backends.sandbox_container /run/user/1000/sandbox      # runs until Ctrl-C

Namespaces are refused in a container, so its own limits replace them: no network, read-only root, no capabilities,
limits of memory and processes, and a tmpfs of limited size for each program that runs at the same time. Its server
listens on a Unix socket in a directory that the stage mounts too.
"""

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from tasks.shared.contract.environment import docker_settings
from tasks.shared.sandbox import SandboxSettings, SandboxUnavailable
from tasks.shared.sandbox.confinement import STACK_BYTES

MOUNTED = "/run/sandbox"
SOCKET = f"{MOUNTED}/socket"
START_TIMEOUT_S = 60.0
SERVER_MEMORY_MB = 1024  # broker, zygote, workers and the warm libraries
SPARE_PROCESSES = 512  # in addition to the threads of sessions and programs
STACK_MB = STACK_BYTES >> 20


def sandbox_options(settings: SandboxSettings, directory: Path, user: str) -> dict[str, Any]:
    """Return the container's options for the Docker SDK. `directory` gets the socket, which only `user` can open."""
    programs = settings.workers * settings.slots
    uid, _, gid = user.partition(":")
    limits = settings.limits
    scratch = tuple(f"/scratch/{number}" for number in range(programs))
    tmpfs = f"size={limits.disk_mb}m,nr_inodes=1k,mode=0700,uid={uid},gid={gid},noexec,nosuid,nodev"
    program_mb = limits.memory_mb + STACK_MB + 2 * limits.disk_mb  # files and output are memory
    memory_mb = SERVER_MEMORY_MB + programs * program_mb
    inside = replace(settings, isolation="landlock", scratch_dirs=scratch, token_file="")
    server = ["python", "-m", "tasks.shared.sandbox.server", "--socket", SOCKET]
    return {
        "command": [*server, "--settings", json.dumps(asdict(inside))],
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": (settings.max_sessions + programs) * limits.processes + SPARE_PROCESSES,
        "mem_limit": f"{memory_mb}m",
        "memswap_limit": f"{memory_mb}m",
        "init": True,
        "user": user,
        "volumes": {str(directory): {"bind": MOUNTED, "mode": "rw"}},
        "tmpfs": dict.fromkeys(scratch, tmpfs),
    }


def wait_until_ready(container: Container, directory: Path) -> None:
    """Return once the server listens. Raises SandboxUnavailable with its output if it ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (directory / Path(SOCKET).name).exists():
        container.reload()
        if container.status not in ("created", "running") or time.monotonic() > deadline:
            output = container.logs(tail=3).decode(errors="replace").strip()
            raise SandboxUnavailable(f"the sandbox container did not start ({container.status}): {output}")
        time.sleep(0.02)


def main(arguments: list[str]) -> int:
    """Serve on a socket in the given directory, with default settings, until interrupted."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        sys.stderr.write("usage: python -m tasks.launch.backends.sandbox_container DIRECTORY\n")
        return 2
    directory = Path(arguments[0]).resolve()
    owner = directory.stat()
    options = sandbox_options(SandboxSettings(), directory, f"{owner.st_uid}:{owner.st_gid}")
    image = docker_settings().images + "sandbox"
    container = docker.from_env().containers.run(image, detach=True, **options)
    try:
        for line in container.logs(stream=True, follow=True):
            sys.stdout.write(line.decode(errors="replace"))
    except KeyboardInterrupt:
        container.stop(timeout=10)
    finally:
        container.remove(force=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
