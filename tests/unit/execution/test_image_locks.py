"""What the sources of a stage import from outside is in the lock of every image that runs the stage."""

import ast
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tasks.shared.config import STAGE_CONFIGS
from tasks.shared.execution.code_digest import ROOT, sources

LOCKS = ROOT / "images" / "locks"
IMAGES = {"train.txt": sorted(STAGE_CONFIGS), "vllm.txt": ["synthesize", "rl", "evaluate"]}
HELD_BY = packages_distributions()


def imported(path: Path) -> Iterator[str]:
    """The top-level packages that a file names in an import, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(("lock", "stage"), [(lock, stage) for lock in IMAGES for stage in IMAGES[lock]])
def test_an_image_has_what_its_stages_import(lock: str, stage: str) -> None:
    lines = (LOCKS / lock).read_text().splitlines()
    locked = {canonicalize_name(line.partition("==")[0]) for line in lines}
    for path in (path for path in sources(stage) if path.suffix == ".py"):
        for package in set(imported(path)) & set(HELD_BY) - {"tasks", "data"}:
            names = {canonicalize_name(name) for name in HELD_BY[package]}
            assert names & locked, f"{path.relative_to(ROOT)} imports {package}: not in images/locks/{lock}"
