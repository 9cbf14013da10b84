"""Stage `synthesize`: traces from a teacher, every code block executed again."""

from typing import Any, Self

from tasks.shared.config import GenerationConfig, ModelConfig, SandboxConfig, StageConfig, TracesConfig
from tasks.shared.contract.environment import SANDBOX_TOKEN
from tasks.shared.contract.spec import StageSpec
from tasks.synthesize.config import SynthesizeConfig


class SynthesizeStage(StageConfig):
    """What `synthesize` depends on."""

    traces: TracesConfig
    sandbox: SandboxConfig
    synthesize: SynthesizeConfig
    generation: GenerationConfig | None = None  # of the engine that writes; None where none does
    model: ModelConfig | None = None

    @classmethod
    def of(cls, recipe: Any) -> Self:
        """Without model and engine where a program or an endpoint writes."""
        written = cls(traces=recipe.traces, sandbox=recipe.sandbox, synthesize=recipe.synthesize)
        return super().of(recipe) if written.synthesize.uses_engine else written


SYNTHESIZE = StageSpec(
    name="synthesize",
    config=SynthesizeStage,
    inputs={
        "problems": "problems",
        "evaluation_sets": "evaluation_sets",
        "checkpoint": "checkpoint",
        "responses": "responses",
        "pass_rates": "rollouts or evaluation",
        "source": "traces",
    },
    outputs={"traces": "traces", "responses": "responses"},
    runs_code=True,
    secrets=(SANDBOX_TOKEN,),
    network=lambda config: config.synthesize.mode != "script",
    engine=lambda config: config.generation.engine if config.generation else "",
    vllm_image="inference",
)
