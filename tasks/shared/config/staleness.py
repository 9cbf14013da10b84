"""What `rl.staleness` asks of `generation`: somebody who samples while the trainer works."""

from tasks.shared.config.generation import GenerationConfig
from tasks.shared.config.training import RlConfig


def require_beside(generation: GenerationConfig, rl: RlConfig) -> None:
    """ValueError where the sampler cannot go on beside the trainer."""
    if rl.staleness and generation.placement == "inside":
        raise ValueError(
            f"rl.staleness = {rl.staleness} needs a sampler beside the trainer: set generation.placement to "
            f"'{'pool' if generation.engine == 'vllm' else 'beside'}', or rl.staleness to 0"
        )
