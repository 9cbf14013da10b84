"""Stage `sft`: supervised fine-tuning on verified traces, interpreter spans masked."""

from typing import Any, Self

from pydantic import Field, model_validator

from tasks.shared.config import MetricsSink, ModelConfig, OptimizerConfig, Section, StageConfig, TracesConfig
from tasks.shared.contract.environment import SINK_VARIABLES
from tasks.shared.contract.spec import StageSpec


class SftConfig(Section):
    """Supervised fine-tuning on verified traces; loss on the assistant's own tokens only."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-5, schedule="cosine")
    epochs: float = Field(2.0, gt=0)  # ReTool
    max_steps: int | None = Field(None, ge=1)  # stops earlier than `epochs`
    tokens_per_step: int = Field(131072, ge=1)  # packed tokens in one optimizer step, over all ranks
    tokens_per_micro_batch: int = Field(16384, ge=1)  # one packed row
    checkpoint_every_steps: int = Field(50, ge=1)
    validation_share: float = Field(0.0, ge=0, lt=1)  # of the problems; their traces are not trained on
    evaluate_every_steps: int = Field(0, ge=0)  # steps between two measurements of their loss; 0: never
    # beside metrics.jsonl; TensorBoard's files are under <home>/tensorboard
    sinks: tuple[MetricsSink, ...] = ()

    @model_validator(mode="after")
    def _validation_is_used(self) -> Self:
        if bool(self.validation_share) != bool(self.evaluate_every_steps):
            raise ValueError(
                f"sft.validation_share = {self.validation_share:g} with sft.evaluate_every_steps = "
                f"{self.evaluate_every_steps}: a validation loss needs both; set the other one too"
            )
        return self


class SftStage(StageConfig):
    """What `sft` depends on."""

    model: ModelConfig
    traces: TracesConfig
    sft: SftConfig
    libraries: tuple[str, ...] = ()  # of the sandbox, where the prompt names them

    @classmethod
    def of(cls, recipe: Any) -> Self:
        """With the libraries that the prompt names."""
        libraries = () if recipe.traces.prompt == "bare" else recipe.sandbox.preload
        return cls(model=recipe.model, traces=recipe.traces, sft=recipe.sft, libraries=libraries)

    @model_validator(mode="after")
    def _precision_fits_the_optimizer(self) -> Self:
        self.sft.optimizer.require_zero("sft.optimizer", self.model.dtype)
        return self


SFT = StageSpec(
    name="sft",
    config=SftStage,
    inputs={"checkpoint": "checkpoint", "traces": "traces"},
    outputs={"checkpoint": "checkpoint", "adapter": "adapter"},
    runs_code=False,
    secrets=SINK_VARIABLES,
    network=lambda _: False,
    engine=lambda _: "",
    vllm_image="",
)
