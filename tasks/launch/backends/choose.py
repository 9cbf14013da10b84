"""The backend that runs stages on this host, and over how many hosts a stage runs."""

from typing import Any

from tasks.launch.backends.backend import Backend
from tasks.launch.backends.process import ProcessBackend
from tasks.shared.contract.environment import chosen_backend


def make_backend() -> Backend:
    """The backend of this host that `TIRFLOW_BACKEND` names. ValueError for another name."""
    name = chosen_backend()
    if name == "process":
        return ProcessBackend()
    if name == "docker":
        from tasks.launch.backends.docker import DockerBackend  # its SDK is slow to import

        return DockerBackend()
    raise ValueError(f"TIRFLOW_BACKEND = '{name}': use process, docker or workers")


def num_nodes(stage: str, config: dict[str, Any]) -> int:
    """Over how many hosts a stage with this configuration runs."""
    optimizer = (config.get(stage) or {}).get("optimizer") or {}
    return int(optimizer.get("nodes", 1)) + num_samplers(stage, config)


def num_samplers(stage: str, config: dict[str, Any]) -> int:
    """How many of these hosts only sample; of a stage that trains nothing the first samples too."""
    generation = config.get("generation") or {}
    if generation.get("placement") != "pool":
        return 0
    nodes = int(generation["pool"]["nodes"])
    return nodes if stage == "rl" else max(0, nodes - 1)
