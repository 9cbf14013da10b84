"""The code interpreter: runs a model's programs in isolation, at close to the cost of a fork.

`Interpreter` is the face that stages use, `SandboxClient` the asynchronous one, and
`python -m tasks.shared.sandbox.server --socket PATH` the server by itself. Standard library only.
What is protected and what is not: docs/sandbox.md, and the docstring of `confinement`.
Names load on first use, so that a warm interpreter does not carry the client's modules in its memory.
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
