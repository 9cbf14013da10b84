"""One digest of the sources that a stage's result depends on: the modules it imports, and the data files beside them.

Imports are followed in the syntax trees from `tasks.<stage>.main`, within this project's packages, without importing
anything. So a change to RL code reruns RL but not SFT. Packages that start processes from their own modules count as a
whole, because no import shows these modules.
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("tasks", "data")
WHOLE = ("tasks.shared.sandbox", "tasks.shared.grading")  # these start processes from their own modules
DATA_SUFFIXES = (".toml", ".txt", ".md", ".json", ".html", ".css", ".js", ".j2")


def code_digest(stage: str, root: Path = ROOT) -> str:
    """Return the sha256, as hex, over paths and contents of every source that `tasks.<stage>.main` reaches."""
    digest = hashlib.sha256()
    for path in sources(stage, root):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def sources(stage: str, root: Path = ROOT) -> list[Path]:
    """List the source files, sorted: reached modules, and data files in their folders and in folders of data there."""
    waiting = [f"tasks.{stage}.main"]
    reached: dict[str, Path] = {}
    while waiting:
        module = waiting.pop()
        path = _module_path(module, root)
        if path is None or module in reached:
            continue
        reached[module] = path
        parts = module.split(".")  # the packages above it run too
        waiting += [".".join(parts[:count]) for count in range(1, len(parts))]
        waiting += _imports(path)
        if module in WHOLE:
            waiting += [f"{module}.{file.stem}" for file in path.parent.glob("*.py")]
    folders = {path.parent for path in reached.values()}
    folders |= {
        at for folder in folders for at in folder.iterdir() if at.is_dir() and not any(at.glob("*.py"))
    }
    data = {file for folder in folders for file in folder.iterdir() if file.suffix in DATA_SUFFIXES}
    return sorted({*reached.values(), *data})


def _module_path(module: str, root: Path) -> Path | None:
    """Return the file of a module of this project; None for other names."""
    if module.split(".")[0] not in PACKAGES:
        return None
    base = root.joinpath(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    """Yield every module named in an import anywhere in a file. `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
