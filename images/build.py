"""Builds the images: the packages of a lock once, then each role's sources on top, which takes seconds.

    .venv/bin/python images/build.py train sandbox --base-image tirflow-base [--accelerator cpu|cuda]

Wheels are downloaded on this machine with its pip configuration, so that builds need no network and images contain no
trace of where packages came from. Labels state what an image was made of; the Docker backend checks them.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tasks.recipes import STAGES
from tasks.shared.contract.code_digest import code_digest
from tasks.shared.contract.environment import home

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "images"
SOURCES = ("tasks", "data")
FIND_COMPILER = """command -v gcc && python3 -c 'import os, sys, sysconfig
sys.exit(not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")))'"""


@dataclass(frozen=True, slots=True)
class Role:
    """The contents of an image."""

    lock: str  # under images/locks
    sources: tuple[str, ...]  # files and folders of the project


ROLES = {
    "sandbox": Role("sandbox.txt", ("tasks/__init__.py", "tasks/shared/__init__.py", "tasks/shared/sandbox")),
    "train": Role("train.txt", SOURCES),
    "rl": Role("vllm.txt", SOURCES),
    "inference": Role("vllm.txt", SOURCES),
    "orchestrator": Role("orchestrator.txt", (*SOURCES, "flows", "prefect.yaml")),
}


def main() -> int:
    """Build the named roles; the exit code. A mistake ends in one line."""
    parser = argparse.ArgumentParser(description="Builds the images tirflow-<role>.")
    parser.add_argument("roles", nargs="+", choices=ROLES)
    parser.add_argument(
        "--base-image", required=True, help="Debian or Ubuntu with Python 3.11; cuda: by digest"
    )
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--prefix", default="tirflow-", help="of the names, a registry for instance")
    arguments = parser.parse_args()
    if arguments.accelerator == "cuda" and "@sha256:" not in arguments.base_image:
        sys.stderr.write(
            f"--base-image {arguments.base_image}: name it by digest (image@sha256:...), tags move\n"
        )
        return 2
    try:
        if arguments.accelerator == "cuda":
            require_compiler(arguments.base_image)
        for name in arguments.roles:
            build(name, ROLES[name], arguments.base_image, arguments.accelerator, arguments.prefix)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{' '.join(map(str, error.cmd))}: exit code {error.returncode}; see above\n")
        return 1
    return 0


def build(name: str, role: Role, base_image: str, accelerator: str, prefix: str) -> None:
    """Build the image of one role, and the packages below it unless they exist."""
    packages = _packages(lock_of(role, accelerator), base_image, accelerator, prefix)
    commit = _output("git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty")
    labels = {
        "org.opencontainers.image.title": f"tirflow-{name}",
        "org.opencontainers.image.revision": commit,
        "tirflow.accelerator": accelerator,
        "tirflow.packages": packages.rpartition(":")[2],
    }
    if role.sources[: len(SOURCES)] == SOURCES:
        labels |= {f"tirflow.code.{stage}": code_digest(stage) for stage in STAGES}
    command = ["docker", "build", "--quiet", "-f", "images/Dockerfile.code", "-t", prefix + name]
    command += ["--build-arg", f"PACKAGES={packages}"]
    command += [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
    _build(command, {path: ROOT / path for path in (*role.sources, "images/Dockerfile.code")})


def require_compiler(base_image: str) -> None:
    """Raise ValueError unless a base image has gcc and Python's headers: Triton compiles a stub for each kernel."""
    command = ["docker", "run", "--rm", "--entrypoint", "sh", base_image, "-c", FIND_COMPILER]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise ValueError(
            f"--base-image {base_image}: no gcc or no headers of Python in it, which Triton needs for CUDA; "
            f"python:3.11-bookworm has them, its -slim form has no gcc ({found.stderr.strip() or 'not found'})"
        )


def lock_of(role: Role, accelerator: str) -> Path:
    """The lock of a role's packages: that of the CUDA build, for a role that has one."""
    lock = IMAGES / "locks" / role.lock
    cuda = lock.with_name(f"{lock.stem}-cuda.txt")
    return cuda if accelerator == "cuda" and cuda.is_file() else lock


def packages_name(lock: Path, base_image: str, accelerator: str, prefix: str) -> str:
    """The name of the image with the packages of a lock: the digest of all that goes into it."""
    base_id = _output("docker", "image", "inspect", "--format", "{{.Id}}", base_image)
    files = (lock, IMAGES / "Dockerfile.packages", IMAGES / "sbom.py")
    parts = (*(file.read_bytes() for file in files), base_id.encode(), accelerator.encode())
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return f"{prefix}packages:{digest}"


def _packages(lock: Path, base_image: str, accelerator: str, prefix: str) -> str:
    """Build the image with the packages of a lock unless it exists; its name."""
    name = packages_name(lock, base_image, accelerator, prefix)
    known = subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False)
    if known.returncode:
        wheels = _gather_wheels(lock)
        files = {wheel.name: wheel for wheel in wheels.iterdir()}
        files |= {"sbom.py": IMAGES / "sbom.py", "Dockerfile": IMAGES / "Dockerfile.packages"}
        command = ["docker", "build", "--network", "none", "--build-arg", f"BASE_IMAGE={base_image}"]
        _build([*command, "--build-arg", f"NAME={name}", "-t", name], files)
        # The build stage with the wheels is as large as the image itself; that of another build may be in use.
        prune = ["docker", "image", "prune", "--force", "--filter", f"label=tirflow.install={name}"]
        subprocess.run(prune, check=True, stdout=subprocess.DEVNULL)
    return name


def _gather_wheels(lock: Path) -> Path:
    """Download the wheels of a lock into a folder, with lock.txt, which lists them; the folder.

    DeepSpeed has no wheel. It is built without kernels, and its build needs torch.
    """
    content = lock.read_text()
    folder = home() / "wheels" / hashlib.sha256(content.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    lines = content.splitlines()
    without_wheel = [line for line in lines if line.startswith("deepspeed==")]
    (folder / "lock.txt").write_text("\n".join(line for line in lines if line not in without_wheel) + "\n")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "-r", str(folder / "lock.txt")], check=True)
    if without_wheel:
        environment = os.environ | {"DS_BUILD_OPS": "0"}
        subprocess.run([*pip, "--no-build-isolation", *without_wheel], check=True, env=environment)
    found = sorted(wheel.name for wheel in folder.glob("*.whl"))
    (folder / "lock.txt").write_text("".join(f"/wheels/{name}\n" for name in found))
    return folder


def _build(command: list[str], files: dict[str, Path]) -> None:
    """Run `docker build` with a context of these files alone, under these names; folders without caches."""
    with subprocess.Popen([*command, "-"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        with tarfile.open(fileobj=process.stdin, mode="w|", format=tarfile.GNU_FORMAT) as context:
            for name, path in files.items():
                context.add(path, name, filter=_reproducible)
        process.stdin.close()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _reproducible(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """An entry of a build's context: owned by root, readable by all, without caches."""
    if "__pycache__" in entry.name:
        return None
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    if shutil.which("docker") is None:
        sys.exit("docker: not found; install Docker (apt-get install docker.io) or put it on the PATH")
    sys.exit(main())
