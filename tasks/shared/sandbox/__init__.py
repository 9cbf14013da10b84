"""The code interpreter: runs the programs of a model in isolation, at about the cost of a fork.

`Interpreter` is the interface for stages, `SandboxClient` the asynchronous one, and
`python -m tasks.shared.sandbox.server --socket PATH` the server by itself. Standard library only.
docs/sandbox.md and the docstring of `confinement` say what it protects against.
Names load on first use, so that the memory of a warm interpreter does not hold the client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.shared.sandbox.client import SandboxClient
    from tasks.shared.sandbox.interpreter import Interpreter
    from tasks.shared.sandbox.records import (
        ExecutionResult,
        Limits,
        SandboxSettings,
        SandboxUnavailable,
        Status,
    )

__all__ = [
    "ExecutionResult",
    "Interpreter",
    "Limits",
    "SandboxClient",
    "SandboxSettings",
    "SandboxUnavailable",
    "Status",
]


def __getattr__(name: str) -> object:
    """Import the module that defines one of the exported names, on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"SandboxClient": "client", "Interpreter": "interpreter"}.get(name, "records")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
