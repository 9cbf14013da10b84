"""The optimizer of `sft` and `rl`, with its adapters, and where metrics go.

A number that can be switched off is off at 0, because TOML has no null. Contradictory settings are errors here, before
anything heavy starts.
"""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.shared.config.section import Section

MetricsSink = Literal["tensorboard", "wandb", "mlflow"]


class LoraConfig(Section):
    """Low-rank adapters, trained in place of the weights themselves (LoRA, arXiv 2106.09685)."""

    rank: int = Field(32, ge=1)
    alpha: int = Field(64, ge=1)  # an adapter counts alpha / rank times
    # names of linear layers, as q_proj; all-linear: each of the body's
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    # the frozen weights: as loaded, or with the body's linear layers in four bits (QLoRA, arXiv 2305.14314), which
    # needs the package bitsandbytes
    base: Literal["as_loaded", "nf4"] = "as_loaded"

    @field_validator("targets")
    @classmethod
    def _targets_are_layers_of_the_body(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        ends = {"lm_head", "embed_tokens", "embed_out", "wte"}
        if not targets or (isinstance(targets, tuple) and ends & set(targets)):
            raise ValueError(
                f"optimizer.lora.targets = {list(targets)}: name linear layers of the body, as q_proj; the embedding "
                "and the output head stay as they are"
            )
        return targets


class OptimizerConfig(Section):
    """AdamW under DeepSpeed, shared by SFT and RL."""

    learning_rate: float = Field(1e-6, gt=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = Field(1.0, gt=0)
    # of the norm before clipping; a step over it is bad; 0: only a norm that is not finite is
    grad_norm_bound: float = Field(0.0, ge=0)
    on_bad_gradient: Literal["stop", "skip"] = "stop"  # skip: the step changes nothing, and is counted
    zero_stage: Literal[0, 1, 2, 3] = 2
    ranks: int = Field(1, ge=1)  # processes, one a GPU, over all nodes
    nodes: int = Field(1, ge=1)  # hosts that they are spread over; more than one: docs/operations.md
    offload: bool = False  # keeps the optimizer state, and so the update, in the host's memory
    gradient_checkpointing: bool = False  # computes each layer again in the backward pass: a third slower
    lora: LoraConfig | None = None  # adapters are trained; without it every weight is

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        if self.offload and self.zero_stage == 0:
            raise ValueError("optimizer.offload = true needs zero_stage 1, 2 or 3: set optimizer.zero_stage")
        if self.zero_stage == 3 and self.lora is not None and self.lora.base == "nf4":
            raise ValueError(
                "optimizer.lora.base = 'nf4' with zero_stage = 3: DeepSpeed cannot partition packed weights; set "
                "optimizer.zero_stage to 0, 1 or 2, or lora.base to 'as_loaded'"
            )
        if self.ranks % self.nodes:
            raise ValueError(
                f"optimizer.ranks = {self.ranks} cannot be spread evenly over optimizer.nodes = {self.nodes}; "
                "every node has equally many"
            )
        return self

    def require_zero(self, section: str, dtype: str) -> None:
        """ValueError for bfloat16 without ZeRO: DeepSpeed would clip each parameter group by itself there."""
        if dtype == "bfloat16" and self.zero_stage == 0:
            raise ValueError(
                f"{section}.zero_stage = 0 needs model.dtype = 'float32'; for bfloat16 use zero_stage 1, 2 or 3"
            )
