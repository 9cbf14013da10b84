"""The backend that runs stages on this host, and the number of hosts of a stage."""

from tasks.launch.backends.backend import Backend
from tasks.launch.backends.process import ProcessBackend
from tasks.shared.config import StageConfig
from tasks.shared.contract.environment import chosen_backend


def make_backend() -> Backend:
    """Return the backend of this host that `TIRFLOW_BACKEND` names. Raises ValueError for another name."""
    name = chosen_backend()
    if name == "process":
        return ProcessBackend()
    if name == "docker":
        from tasks.launch.backends.docker import DockerBackend  # its SDK is slow to import

        return DockerBackend()
    raise ValueError(f"TIRFLOW_BACKEND = '{name}': use process, docker or workers")


def num_nodes(config: StageConfig) -> int:
    """Return the number of hosts of a stage with this configuration."""
    trainers = [optimizer.nodes for _, optimizer in config.each("optimizer")]
    return sum(trainers or [1]) + num_samplers(config)


def num_samplers(config: StageConfig) -> int:
    """Return how many of these hosts only sample. In a stage that trains nothing, the first one samples too."""
    generation = getattr(config, "generation", None)
    if generation is None or generation.placement != "pool":
        return 0
    return generation.pool.nodes if any(config.each("optimizer")) else max(0, generation.pool.nodes - 1)
