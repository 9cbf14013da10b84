"""The code in a stage's cache key: all direct and indirect imports and the data files beside them."""

from pathlib import Path

import pytest

from tasks.shared.contract.code_digest import ROOT, code_digest, sources

FILES = {
    "tasks/__init__.py": "",
    "tasks/sft/__init__.py": "",
    "tasks/sft/main.py": "from tasks.shared import packing\nimport torch\n",
    "tasks/shared/__init__.py": "",
    "tasks/shared/packing.py": "def f():\n    from data.families import family\n",
    "tasks/shared/unused.py": "x = 1\n",
    "tasks/sft/page/page.css": "",
    "tasks/rl/__init__.py": "",
    "tasks/rl/main.py": "import tasks.shared.packing\n",
    "data/__init__.py": "",
    "data/families.py": "",
    "data/registry.toml": "a = 1\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_sources_are_what_is_imported_and_the_data_beside_it(tree: Path) -> None:
    names = [path.relative_to(tree).as_posix() for path in sources("sft", tree)]
    assert names == sorted(
        set(FILES) - {"tasks/shared/unused.py", "tasks/rl/__init__.py", "tasks/rl/main.py"}
    )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tasks/sft/main.py", True),
        ("tasks/shared/packing.py", True),
        ("data/families.py", True),
        ("data/registry.toml", True),
        ("tasks/sft/page/page.css", True),
        ("tasks/rl/main.py", False),
        ("tasks/shared/unused.py", False),
    ],
)
def test_the_digest_changes_with_these_files_alone(tree: Path, name: str, changes: bool) -> None:
    before = code_digest("sft", tree)
    (tree / name).write_text(FILES[name] + "\n# changed\n")
    assert (code_digest("sft", tree) != before) is changes


def test_no_stage_reaches_the_flows() -> None:
    stages = sorted(path.parent.name for path in ROOT.glob("tasks/*/main.py"))
    assert "prepare" in stages
    for stage in stages:
        names = {path.relative_to(ROOT).as_posix() for path in sources(stage)}
        assert f"tasks/{stage}/main.py" in names
        assert not {name for name in names if name.startswith(("flows/", "tasks/launch/"))}


def test_packages_that_start_processes_count_whole() -> None:
    paths = {path.relative_to(ROOT).as_posix() for path in sources("rl")}
    for package in ("sandbox", "grading"):
        files = (ROOT / "tasks" / "shared" / package).glob("*.py")
        assert {file.relative_to(ROOT).as_posix() for file in files} <= paths
