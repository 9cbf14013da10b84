"""The warm interpreter: imports the preloaded libraries, uses each once, freezes, and forks workers from it.

Started by the broker as `python -m tasks.shared.sandbox.zygote --control FD` with an empty environment. It
never sees a program. Messages on its control socket: first the settings (JSON); it answers `ready`
(JSON) or `failed` with the reason; then each message asks for a worker and carries its control socket.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
import sysconfig

from tasks.shared.sandbox import cells, confinement, kernel, runner, worker
from tasks.shared.sandbox.records import SandboxUnavailable

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
_HUGE_PAGE = 2 << 20
WORKER_REQUEST = struct.Struct("=I")


def forget_site_hooks() -> None:
    """Drop what the installation hung into the import system: finders of editable projects, for example."""
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if finder.__module__.startswith("_frozen_importlib")
    ]
    ours = {*sys.stdlib_module_names, "tasks", "__main__"}
    for name in [name for name in sys.modules if name.partition(".")[0] not in ours]:
        del sys.modules[name]


def preload(modules: tuple[str, ...]) -> None:
    """Import the modules and use the known ones once: a first use costs as much as the import."""
    for module in (*_OFTEN_USED.split(), *modules):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise SandboxUnavailable(
                f"sandbox setting preload: {module} cannot be imported by {sys.executable} ({error}); "
                "install it there or take it from the list"
            ) from error
    for module in modules:
        if module in _WARM:
            exec(_WARM[module], {})
    atexit._clear()


def readable_paths() -> tuple[str, ...]:
    """The interpreter's own libraries: standard library, what was imported, and their shared objects."""
    # Not sysconfig's platstdlib: in a virtual environment that is the parent of all its packages.
    paths = {os.path.dirname(os.__file__), str(sysconfig.get_config_var("DESTSHARED"))}
    paths = {path for path in paths if os.path.isdir(path)}
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if "." in name or name in ("__main__", "tasks") or origin is None:
            continue
        top = os.path.dirname(origin) if os.path.basename(origin).startswith("__init__.") else origin
        paths.add(top)
        if os.path.isdir(f"{top}.libs"):
            paths.add(f"{top}.libs")
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


def forget_search_paths() -> None:
    """Leave only the standard library (and the current directory) to be imported from later."""
    stdlib = os.path.dirname(os.__file__)
    kept = [
        path
        for path in sys.path
        if (path.startswith(stdlib) and "-packages" not in path) or path.endswith(".zip")
    ]
    sys.path[:] = ["", *kept]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def compact_memory() -> None:
    """Gather the warm heap into huge pages: a fork then copies a few entries in place of thousands.

    Cuts a third off the cost of a fork and its exit. Where the kernel declines, nothing changes.
    """
    with open("/proc/self/maps", encoding="utf-8") as maps:
        areas = [line.split() for line in maps]
    for area in areas:
        if area[1] != "rw-p" or (len(area) > 5 and area[5] != "[heap]"):
            continue
        start, end = (int(address, 16) for address in area[0].split("-"))
        first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
        for page in range(first, end - _HUGE_PAGE + 1, _HUGE_PAGE):
            kernel.collapse_pages(page, _HUGE_PAGE)


def prepare(settings: dict[str, object]) -> worker.Plan:
    """Warm up and settle what the workers need. Raises SandboxUnavailable."""
    isolation = confinement.probe(str(settings["isolation"]), bool(settings["allow_unsafe"]))
    forget_site_hooks()
    preload(tuple(settings["preload"]))  # type: ignore[arg-type]
    readable = readable_paths()
    forget_search_paths()
    runner.standard_streams()
    sys.argv[:] = ["main.py"]
    with open("/proc/self/statm", encoding="ascii") as handle:
        warm_bytes = int(handle.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    template = confinement.filter_template(isolation)
    first_uid = cells.reserve_uids(int(str(settings["workers"]))) if isolation.as_root else 0
    slots, disk_mb = int(str(settings["slots"])), int(str(settings["disk_mb"]))
    plan = worker.Plan(isolation, readable, slots, disk_mb, warm_bytes, template, first_uid)
    gc.collect()
    gc.freeze()
    compact_memory()
    return plan


def main() -> None:
    """Serve the broker until it goes away."""
    parser = argparse.ArgumentParser(description="warm interpreter of the sandbox; started by its broker")
    parser.add_argument("--control", type=int, required=True)
    control = socket.socket(fileno=parser.parse_args().control)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    settings = json.loads(control.recv(65536))
    try:
        plan = prepare(settings)
    except (SandboxUnavailable, OSError) as error:
        control.send(json.dumps({"failed": str(error)}).encode())
        return
    control.send(json.dumps({"ready": plan.isolation.mode, "warm_mb": plan.warm_bytes >> 20}).encode())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers are reaped by the kernel
    scratch = list(settings["scratch_dirs"])
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, WORKER_REQUEST.size, 1)
        if not message:
            break
        (index,) = WORKER_REQUEST.unpack(message)
        share = tuple(scratch[index :: int(settings["workers"])])
        if os.fork() == 0:
            control.close()
            worker.main(plan, index, share, socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])
    try:
        os.waitpid(-1, 0)  # with SIGCHLD ignored: returns when the last worker has ended
    except ChildProcessError:
        return


if __name__ == "__main__":
    main()
