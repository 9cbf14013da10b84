"""The libraries of programs: a closed set. The warm interpreter holds those that are light and often used.

Programs can import the standard library, the modules of `preload`, and what their distributions require. Nothing else
that is installed can be imported, so programs see the same on a host and in a container. Heavy libraries would double
the cost of each fork, so the programs that need them import them.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from types import SimpleNamespace
from typing import Any

from tasks.shared.sandbox.records import SandboxUnavailable

ON_DEMAND = ("scipy", "pandas", "networkx", "matplotlib")
"""Imported by the programs themselves: 0.2 to 0.6 s each, and together twice the memory and mappings of the rest."""
ENVIRONMENT = {
    "MPLBACKEND": "agg",
    "MPLCONFIGDIR": ".matplotlib",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONTZPATH": "",
    "TQDM_DISABLE": "1",
}
"""matplotlib draws without a screen, tqdm draws no bars (they print timings), and arithmetic takes one thread. Time
zones come from a package or not at all, since a container has other zone files than a host."""
_OFTEN_USED = (
    "bisect collections copy dataclasses datetime decimal functools heapq json operator random re "
    "statistics string time typing"
)
_WARM = {
    "sympy": (
        "import sympy\nx = sympy.symbols('x')\nstr(sympy.solve(x**2 - 5*x + 6, x))\nsympy.factorint(360)\n"
        "str(sympy.simplify((x**2 - 1)/(x - 1)))\nsympy.Rational(1, 3) + sympy.sqrt(2)\nsympy.isprime(97)\n"
    ),
    # numpy.random loads late and seeds itself. Loaded here, it gives every program the same state.
    "numpy": (
        "import numpy\nnumpy.random.seed(0)\nnumpy.linalg.solve(numpy.eye(2), numpy.ones(2))\n"
        "str(numpy.arange(3).sum())\n"
    ),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OTHER_PLATFORM = re.compile(
    r"extra\b|(sys_platform|platform_system|os_name)\s*==\s*['\"](?!linux|Linux|posix)"
)


@dataclass(slots=True)
class _LibrarySet:
    """What can be imported besides the standard library."""

    specs: dict[str, ModuleSpec] = field(default_factory=dict)
    """By the name of the top-level module."""
    distributions: dict[str, metadata.Distribution] = field(default_factory=dict)
    """By name, since some libraries look up their own version."""
    folders: list[str] = field(default_factory=list)
    """Folders that they read besides their modules: shared objects, metadata."""


def prepare_libraries(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Restrict imports to the set, and import and use its warm part.

    Returns the paths that programs may read. Raises SandboxUnavailable.
    """
    _remove_site_hooks()
    libraries = _find(modules)
    _restrict_imports(libraries)
    for module in (*_OFTEN_USED.split(), *modules):
        _load(module, libraries.specs)
    for module, program in _WARM.items():
        if module in libraries.specs:
            exec(program, {})
    # A model need not read warnings about slow font searches on a busy machine.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    atexit._clear()
    return _readable(libraries)


def _remove_site_hooks() -> None:
    """Remove hooks of the installation from the import system, such as finders of editable projects."""
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if finder.__module__.startswith("_frozen_importlib")
    ]
    ours = {*sys.stdlib_module_names, "tasks", "__main__"}
    for name in [name for name in sys.modules if name.partition(".")[0] not in ours]:
        del sys.modules[name]


def _load(module: str, specs: dict[str, ModuleSpec]) -> None:
    """Import a module of the set, or check that a program could."""
    top = module.partition(".")[0]
    try:
        if top not in specs and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
        if top not in ON_DEMAND:
            importlib.import_module(module)
    except ImportError as error:
        raise SandboxUnavailable(
            f"sandbox setting preload: {module} cannot be imported by {sys.executable} ({error}); "
            "install it there, or remove it from the list"
        ) from error


def _find(modules: tuple[str, ...]) -> _LibrarySet:
    """Find the modules and all that their distributions require."""
    found = _LibrarySet()
    roots = [module.partition(".")[0] for module in modules]
    roots = [name for name in roots if name not in sys.stdlib_module_names]
    for distribution in _distributions(roots):
        site = str(distribution.locate_file(""))
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
        found.distributions[_canonical(distribution.metadata["Name"])] = distribution
        found.folders += [os.path.join(site, top) for top in tops if top.endswith((".libs", ".dist-info"))]
        for name in {top.partition(".")[0] for top in tops if not top.endswith(".dist-info")}:
            spec = PathFinder.find_spec(name, [site]) if name.isidentifier() else None
            if spec is not None and name != "__pycache__":
                found.specs[name] = spec
    for name in roots:
        if name not in found.specs and (spec := PathFinder.find_spec(name)) is not None:
            found.specs[name] = spec  # a module of no distribution
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distributions(roots: list[str]) -> Iterator[metadata.Distribution]:
    """Yield the distributions of these modules, and all that they require on this platform."""
    waiting, seen = list(roots), set[str]()
    while waiting:
        name = waiting.pop()
        if _canonical(name) in seen:
            continue
        seen.add(_canonical(name))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in roots:  # a module whose distribution has another name
                waiting += metadata.packages_distributions().get(name, [])
            continue
        yield distribution
        for line in distribution.requires or ():
            requirement, _, marker = line.partition(";")
            found = _NAME.match(requirement)
            if found and not _OTHER_PLATFORM.search(marker):
                waiting.append(found.group())


def _restrict_imports(libraries: _LibrarySet) -> None:
    """Allow imports only from the current directory, the standard library and the set, in this order."""
    stdlib = os.path.dirname(os.__file__)
    sys.path[:] = ["", *(path for path in sys.path if _is_of_stdlib(path, stdlib))]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()

    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return libraries.specs.get(name)

    def find_distributions(context: Any) -> list[metadata.Distribution]:
        found = libraries.distributions
        if context.name is None:
            return list(found.values())
        return [found[name] for name in [_canonical(context.name)] if name in found]

    finder = SimpleNamespace(find_spec=find_spec, find_distributions=find_distributions)
    sys.meta_path.append(finder)


def _is_of_stdlib(path: str, stdlib: str) -> bool:
    return (path.startswith(stdlib) and "-packages" not in path) or path.endswith(".zip")


def _readable(libraries: _LibrarySet) -> tuple[str, ...]:
    """Return the paths of the set, of the standard library, and of the system's shared objects that these loaded."""
    # Not sysconfig's platstdlib: in a virtual environment that is the parent of all its packages.
    paths = {os.path.dirname(os.__file__), str(sysconfig.get_config_var("DESTSHARED")), *libraries.folders}
    paths = {path for path in paths if os.path.isdir(path)}
    for spec in libraries.specs.values():
        paths |= {*(spec.submodule_search_locations or ())} or {str(spec.origin)}
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            if line.rstrip().endswith(".so") or ".so." in line:
                path = line.split(maxsplit=5)[5].strip()
                if "/lib/" in path and path.startswith(("/lib", "/usr/lib")):
                    paths.add(os.path.dirname(path))
    return tuple(path for path in sorted(paths) if not any(path.startswith(f"{other}/") for other in paths))
