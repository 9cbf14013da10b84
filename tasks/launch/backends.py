"""The backend that runs stages on this host, and over how many hosts a stage runs."""

from typing import Any

from tasks.shared.environment import chosen_backend
from tasks.shared.execution.backend import Backend
from tasks.shared.execution.process import ProcessBackend


def make_backend() -> Backend:
    """The backend of this host that `TIRFLOW_BACKEND` names. ValueError for another name."""
    name = chosen_backend()
    if name == "process":
        return ProcessBackend()
    if name == "docker":
        from tasks.shared.execution.docker import DockerBackend  # its SDK is slow to import

        return DockerBackend()
    raise ValueError(f"TIRFLOW_BACKEND = '{name}': use process, docker or workers")


def num_nodes(stage: str, config: dict[str, Any]) -> int:
    """Over how many hosts a stage with this configuration runs."""
    optimizer = (config.get(stage) or {}).get("optimizer") or {}
    return int(optimizer.get("nodes", 1))
