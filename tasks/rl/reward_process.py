"""A reward function in a process of its own: JSON lines in, JSON lines out. Run by path, see `reward_function.py`.

    python -P reward_process.py FUNCTION MEMORY_MB ARGUMENTS

The function's output goes to standard error. The first line on standard output says whether it could be loaded.
"""

import importlib
import importlib.util
import inspect
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load(name: str) -> Callable[..., Any]:
    """The function `package.module:function` or `/path.py:function`."""
    place, _, function = name.rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # as an import does, because dataclasses and pickle look it up there
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    found = getattr(module, function)
    if not callable(found):
        raise TypeError(f"{function} is no function")
    return found


def answer(function: Callable[..., Any], request: dict[str, Any]) -> dict[str, Any]:
    """The function's numbers for one batch, or what went wrong."""
    try:
        values = [float(value) for value in function(request["responses"], **request["arguments"])]
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        return {"error": _one_line(error)}
    return {"rewards": values}


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def main(name: str, memory_mb: int, arguments: dict[str, Any]) -> None:
    """Answer until the input closes."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        function = load(name)
        inspect.signature(function).bind([], **arguments)
    except BaseException as error:  # noqa: BLE001 - whatever loading a user's module raises, an exit included
        print(json.dumps({"error": _one_line(error)}), file=out, flush=True)
        return
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(function, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
