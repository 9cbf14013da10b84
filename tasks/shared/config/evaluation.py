"""The evaluation of a checkpoint: the section `evaluate`, and the sections used wherever samples are graded."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.shared.config.endpoint import ServedModel
from tasks.shared.config.generation import GenerationConfig
from tasks.shared.config.model import ModelConfig
from tasks.shared.config.section import Section, StageConfig
from tasks.shared.config.traces import SandboxConfig, TracesConfig


class EvaluateConfig(Section):
    """k samples a problem with intervals. A protocol fills in the numbers below it (`data/protocols.toml`)."""

    protocol: str = ""  # retool, torl, or empty for the numbers below
    samples_per_problem: int = Field(32, ge=1)
    temperature: float = Field(1.0, ge=0)  # 0 is greedy
    top_p: float = Field(0.7, gt=0, le=1)
    max_calls: int | None = Field(None, ge=0)  # None: traces.max_calls
    max_response_tokens: int | None = Field(None, ge=1)  # None: generation.max_response_tokens
    checkpoints: tuple[Literal["base", "sft", "rl"], ...] = ("base", "sft", "rl")
    endpoint: ServedModel = ServedModel()  # asked in place of the stage's own engine

    @model_validator(mode="after")
    def _greedy_samples_once(self) -> Self:
        if self.temperature == 0 and self.samples_per_problem > 1:
            raise ValueError(
                "evaluate.temperature = 0 gives the same sample every time: set evaluate.samples_per_problem = 1"
            )
        return self


class EvaluateStage(StageConfig):
    """The sections that `evaluate` depends on, and everything else that samples and grades like it."""

    model: ModelConfig
    traces: TracesConfig
    sandbox: SandboxConfig
    generation: GenerationConfig
    evaluate: EvaluateConfig

    def limited(self) -> "EvaluateStage":
        """The same configuration with evaluate's own limits in the sections `traces` and `generation`."""
        limits = self.evaluate
        traces, generation = self.traces, self.generation
        if limits.max_calls is not None and traces.dialect != "text":
            traces = traces.model_copy(update={"max_calls": limits.max_calls})
        if limits.max_response_tokens is not None:
            generation = generation.model_copy(update={"max_response_tokens": limits.max_response_tokens})
        return self.model_copy(update={"traces": traces, "generation": generation})
