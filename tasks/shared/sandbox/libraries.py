"""The libraries of programs: a closed set, of which the warm interpreter holds the light and much-used ones.

Programs can import the standard library, the modules of `preload`, and what their distributions say that they need;
nothing else that happens to be installed, so that host and container, which have other things beside, give programs
the same. The heavy ones would make each fork cost twice as much: they are imported by the programs that ask for them.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from types import SimpleNamespace
from typing import Any

from tasks.shared.sandbox.records import SandboxUnavailable

ON_DEMAND = ("scipy", "pandas", "networkx", "matplotlib")
"""Left to the programs to import: 0.2 to 0.6 s each, and together twice the memory and mappings of the rest."""
ENVIRONMENT = {
    "MPLBACKEND": "agg",
    "MPLCONFIGDIR": ".matplotlib",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONTZPATH": "",
    "TQDM_DISABLE": "1",
}
"""Pictures are drawn for no screen, progress bars for nobody (they print timings), arithmetic takes one thread, and
time zones come from a package or not at all, since a container has other files of them than a host."""
_OFTEN_USED = (
    "bisect collections copy dataclasses datetime decimal functools heapq json operator random re "
    "statistics string time typing"
)
_WARM = {
    "sympy": (
        "import sympy\nx = sympy.symbols('x')\nstr(sympy.solve(x**2 - 5*x + 6, x))\nsympy.factorint(360)\n"
        "str(sympy.simplify((x**2 - 1)/(x - 1)))\nsympy.Rational(1, 3) + sympy.sqrt(2)\nsympy.isprime(97)\n"
    ),
    # numpy.random loads late and seeds itself: done here, every program starts with the same state.
    "numpy": (
        "import numpy\nnumpy.random.seed(0)\nnumpy.linalg.solve(numpy.eye(2), numpy.ones(2))\n"
        "str(numpy.arange(3).sum())\n"
    ),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_HERE = re.compile(r"extra\b|(sys_platform|platform_system|os_name)\s*==\s*['\"](?!linux|Linux|posix)")


@dataclass(slots=True)
class _Closed:
    """What can be imported beside the standard library."""

    specs: dict[str, ModuleSpec] = field(default_factory=dict)
    """By the name of the top-level module."""
    distributions: dict[str, metadata.Distribution] = field(default_factory=dict)
    """By name: some libraries ask for their own version."""
    folders: list[str] = field(default_factory=list)
    """What they read beside their modules: shared objects, metadata."""


def prepare_libraries(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Close the set, import its warm part and use it; returns what programs may read. Raises SandboxUnavailable."""
    _forget_site_hooks()
    closed = _close(modules)
    _search_nowhere_else(closed)
    for module in (*_OFTEN_USED.split(), *modules):
        _load(module, closed.specs)
    for module, program in _WARM.items():
        if module in closed.specs:
            exec(program, {})
    # That it is slow to look for fonts on a busy machine is nothing to tell a model.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    atexit._clear()
    return _readable(closed)


def _forget_site_hooks() -> None:
    """Drop what the installation hung into the import system: finders of editable projects, for example."""
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if finder.__module__.startswith("_frozen_importlib")
    ]
    ours = {*sys.stdlib_module_names, "tasks", "__main__"}
    for name in [name for name in sys.modules if name.partition(".")[0] not in ours]:
        del sys.modules[name]


def _load(module: str, specs: dict[str, ModuleSpec]) -> None:
    """Import a module of the set, or see that a program could."""
    top = module.partition(".")[0]
    try:
        if top not in specs and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
        if top not in ON_DEMAND:
            importlib.import_module(module)
    except ImportError as error:
        raise SandboxUnavailable(
            f"sandbox setting preload: {module} cannot be imported by {sys.executable} ({error}); "
            "install it there or take it from the list"
        ) from error


def _close(modules: tuple[str, ...]) -> _Closed:
    """Find the modules and all that their distributions require."""
    closed = _Closed()
    roots = [module.partition(".")[0] for module in modules]
    roots = [name for name in roots if name not in sys.stdlib_module_names]
    for distribution in _distributions(roots):
        site = str(distribution.locate_file(""))
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
        closed.distributions[_canonical(distribution.metadata["Name"])] = distribution
        closed.folders += [os.path.join(site, top) for top in tops if top.endswith((".libs", ".dist-info"))]
        for name in {top.partition(".")[0] for top in tops if not top.endswith(".dist-info")}:
            spec = PathFinder.find_spec(name, [site]) if name.isidentifier() else None
            if spec is not None and name != "__pycache__":
                closed.specs[name] = spec
    for name in roots:
        if name not in closed.specs and (spec := PathFinder.find_spec(name)) is not None:
            closed.specs[name] = spec  # a module of no distribution
    return closed


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distributions(roots: list[str]) -> Iterator[metadata.Distribution]:
    """The distributions that hold these modules, and all that they require on this platform."""
    waiting, seen = list(roots), set[str]()
    owners: Mapping[str, list[str]] = {}
    while waiting:
        name = waiting.pop()
        if _canonical(name) in seen:
            continue
        seen.add(_canonical(name))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in roots:  # a module whose distribution has another name
                owners = owners or metadata.packages_distributions()
                waiting += owners.get(name, [])
            continue
        yield distribution
        for line in distribution.requires or ():
            requirement, _, marker = line.partition(";")
            found = _NAME.match(requirement)
            if found and not _NOT_HERE.search(marker):
                waiting.append(found.group())


def _search_nowhere_else(closed: _Closed) -> None:
    """Leave only the standard library, the current directory and the set to be imported from, in this order."""
    stdlib = os.path.dirname(os.__file__)
    kept = [
        path
        for path in sys.path
        if (path.startswith(stdlib) and "-packages" not in path) or path.endswith(".zip")
    ]
    sys.path[:] = ["", *kept]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()

    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return closed.specs.get(name)

    def find_distributions(context: Any) -> list[metadata.Distribution]:
        found = closed.distributions
        if context.name is None:
            return list(found.values())
        return [found[name] for name in [_canonical(context.name)] if name in found]

    finder = SimpleNamespace(find_spec=find_spec, find_distributions=find_distributions)
    sys.meta_path.append(finder)


def _readable(closed: _Closed) -> tuple[str, ...]:
    """The set, the standard library, and the shared objects of the system that these have loaded."""
    # Not sysconfig's platstdlib: in a virtual environment that is the parent of all its packages.
    paths = {os.path.dirname(os.__file__), str(sysconfig.get_config_var("DESTSHARED")), *closed.folders}
    paths = {path for path in paths if os.path.isdir(path)}
    for spec in closed.specs.values():
        paths |= {*(spec.submodule_search_locations or ())} or {str(spec.origin)}
    with open("/proc/self/maps", encoding="utf-8") as maps:
        objects = {
            line.split(maxsplit=5)[5].strip()
            for line in maps
            if line.rstrip().endswith(".so") or ".so." in line
        }
    paths |= {
        os.path.dirname(path) for path in objects if "/lib/" in path and path.startswith(("/lib", "/usr/lib"))
    }
    kept = [path for path in sorted(paths) if not any(path.startswith(f"{other}/") for other in paths)]
    return tuple(kept)
