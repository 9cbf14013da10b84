"""Stage `rl`: one round of steps with live code execution."""

from collections.abc import Iterable
from typing import Self

from pydantic import model_validator

from tasks.rl.config import RlConfig
from tasks.shared.config import GenerationConfig, ModelConfig, SandboxConfig, StageConfig, TracesConfig
from tasks.shared.contract.environment import SANDBOX_TOKEN, SINK_VARIABLES
from tasks.shared.contract.spec import StageSpec


class RlStage(StageConfig):
    """The sections that an RL round depends on."""

    model: ModelConfig
    traces: TracesConfig
    sandbox: SandboxConfig
    generation: GenerationConfig
    rl: RlConfig

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        require_fitting(self.model, self.generation, self.rl)
        return self


RL = StageSpec(
    name="rl",
    config=RlStage,
    inputs={
        "checkpoint": "checkpoint",
        "problems": "problems",
        "trainer_state": "trainer_state",
        "reference": "checkpoint",
        "evaluation_sets": "evaluation_sets",
        "best": "checkpoint",
        "record": "rollouts",
    },
    outputs={
        "checkpoint": "checkpoint",
        "rollouts": "rollouts",
        "trainer_state": "trainer_state",
        "adapter": "adapter",
        "best": "checkpoint",
    },
    runs_code=True,
    secrets=(SANDBOX_TOKEN, *SINK_VARIABLES),
    network=lambda config: bool(config.rl.reward),  # a judge behind an endpoint
    engine=lambda config: config.generation.engine,
    vllm_image="rl",
)


def last_round(labels: Iterable[str]) -> int:
    """The number of the last round among the labels of a run's stages, 0 if there is none."""
    return max(map(round_of, labels), default=0)


def round_of(label: str) -> int:
    """The number of the round with that label in a run's record; 0 for another stage."""
    stage, _, number = label.rpartition("-")
    return int(number) if stage == RL.name else 0


def require_fitting(model: ModelConfig, generation: GenerationConfig, rl: RlConfig) -> None:
    """ValueError for sections that contradict each other: precision, length of a row, what the sampler can do."""
    rl.optimizer.require_zero("rl.optimizer", model.dtype)
    longest = generation.max_prompt_tokens + generation.max_response_tokens
    if longest > rl.tokens_per_micro_batch:
        raise ValueError(
            f"rl.tokens_per_micro_batch = {rl.tokens_per_micro_batch} does not hold a prompt and a response of "
            f"generation.max_prompt_tokens + max_response_tokens = {longest}; raise it to {longest} or more"
        )
    if rl.sleep_sampler and generation.engine != "vllm":
        raise ValueError(
            f"rl.sleep_sampler = true needs generation.engine = 'vllm', not '{generation.engine}'; set it to false"
        )
    if rl.staleness and generation.placement == "inside":
        raise ValueError(
            f"rl.staleness = {rl.staleness} needs a sampler beside the trainer: set generation.placement to "
            f"'{'pool' if generation.engine == 'vllm' else 'beside'}', or rl.staleness to 0"
        )
    if generation.placement != "pool":
        return
    if rl.sleep_sampler:
        raise ValueError(
            "rl.sleep_sampler = true is for an engine inside the trainer; a pool has GPUs of its own: set it to false"
        )
    if rl.offload_while_sampling:
        raise ValueError(
            "rl.offload_while_sampling = true is for a sampler on the trainer's GPUs, not for a pool: set it to false"
        )
    if rl.optimizer.nodes > 1 and not (generation.pool.nodes or generation.pool.addresses):
        raise ValueError(
            f"rl.optimizer.nodes = {rl.optimizer.nodes} with generation.placement = 'pool' needs hosts that sample: "
            "set generation.pool.nodes, or addresses of running servers"
        )
