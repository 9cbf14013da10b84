"""Stage `sft`: supervised fine-tuning on verified traces, interpreter spans masked."""

from typing import Any, Self

from pydantic import model_validator

from tasks.shared.config import ModelConfig, SftConfig, StageConfig, TracesConfig
from tasks.shared.contract.environment import SINK_VARIABLES
from tasks.shared.contract.spec import StageSpec


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
