"""Locks of images: each has what its stages import and what those packages need."""

import ast
from collections.abc import Iterator
from importlib.metadata import distributions, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tasks.recipes import STAGES
from tasks.shared.contract.code_digest import ROOT, sources

LOCKS = ROOT / "images" / "locks"
IMAGES = {"train.txt": sorted(STAGES), "vllm.txt": ["synthesize", "rl", "evaluate"]}
HELD_BY = packages_distributions()
IN_IMAGES = {"python_version": "3.11", "python_full_version": "3.11.2", "extra": ""}  # Debian 12's


def imported(path: Path) -> Iterator[str]:
    """The top-level packages that a file names in an import, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(("lock", "stage"), [(lock, stage) for lock in IMAGES for stage in IMAGES[lock]])
def test_an_image_has_what_its_stages_import(lock: str, stage: str) -> None:
    locked = locked_in(lock)
    for path in (path for path in sources(stage) if path.suffix == ".py"):
        for package in set(imported(path)) & set(HELD_BY) - {"tasks", "data"}:
            names = {canonicalize_name(name) for name in HELD_BY[package]}
            assert names & locked, f"{path.relative_to(ROOT)} imports {package}: not in images/locks/{lock}"


@pytest.mark.parametrize("lock", ["sandbox.txt", "train.txt", "orchestrator.txt"])
def test_a_lock_is_complete_for_the_python_of_images(lock: str) -> None:
    """Some need another package on 3.11.2 than on the Python that wrote the lock."""
    for name in locked_in(lock) & {canonicalize_name(d.name) for d in distributions()}:
        for requirement in map(Requirement, requires(name) or ()):
            if requirement.marker is None or requirement.marker.evaluate(IN_IMAGES):
                assert canonicalize_name(requirement.name) in locked_in(lock), f"{name} needs {requirement}"


def locked_in(lock: str) -> set[str]:
    """The canonical names of a lock's packages."""
    return {canonicalize_name(line.partition("==")[0]) for line in (LOCKS / lock).read_text().splitlines()}
