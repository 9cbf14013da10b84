"""The stages, in the order of the pipeline, and `Recipe`: the sections of all of them, checked as a whole."""

from typing import Any, Self

from pydantic import model_validator

from tasks.evaluate.spec import EVALUATE
from tasks.prepare.config import DataConfig
from tasks.prepare.spec import PREPARE
from tasks.report.spec import REPORT, ReportConfig
from tasks.rl.config import RlConfig
from tasks.rl.spec import RL, require_fitting
from tasks.serve.config import ServeConfig
from tasks.sft.spec import SFT, SftConfig
from tasks.shared.config import (
    EvaluateConfig,
    GenerationConfig,
    ModelConfig,
    SandboxConfig,
    Section,
    StageConfig,
    TracesConfig,
)
from tasks.shared.contract.spec import StageSpec
from tasks.shared.contract.stage import StageRequest
from tasks.synthesize.config import SynthesizeConfig
from tasks.synthesize.spec import SYNTHESIZE

STAGES: dict[str, StageSpec[Any]] = {
    spec.name: spec for spec in (PREPARE, SYNTHESIZE, SFT, RL, EVALUATE, REPORT)
}


def find_stage(name: str) -> StageSpec[Any]:
    """The stage of that name; ValueError, one line, if there is none."""
    if name not in STAGES:
        raise ValueError(f"stage '{name}': there is none of that name; there are {', '.join(STAGES)}")
    return STAGES[name]


def stage_of(request: StageRequest) -> tuple[StageSpec[Any], StageConfig]:
    """The stage that is asked for, and its configuration."""
    spec = find_stage(request.stage)
    return spec, spec.config.model_validate(request.config)


class Recipe(Section):
    """A whole run: every section, and the seed from which every stage's seed is derived."""

    name: str
    description: str = ""
    seed: int = 0
    model: ModelConfig
    data: DataConfig
    traces: TracesConfig = TracesConfig()
    sandbox: SandboxConfig = SandboxConfig()
    generation: GenerationConfig = GenerationConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()
    sft: SftConfig = SftConfig()
    rl: RlConfig = RlConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    serve: ServeConfig = ServeConfig()
    cold_start: bool = True  # false: RL straight from the base model (ToRL)

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        if (
            self.traces.prompt == "plain"
            and self.synthesize.mode == "bootstrap"
            and self.synthesize.uses_endpoint
        ):
            raise ValueError(
                "traces.prompt = 'plain' has no chat template, and an endpoint applies one: set "
                "synthesize.teacher.backend = 'engine'"
            )
        scripted = self.cold_start and self.synthesize.mode == "script"
        if self.traces.dialect == "text" and self.synthesize.code_share and scripted:
            raise ValueError(
                "traces.dialect = 'text' needs synthesize.code_share = 0: its traces have no code"
            )
        if not self.traces.max_calls and self.synthesize.selection.require_code and self.cold_start:
            raise ValueError(
                f"traces.max_calls = 0 (dialect '{self.traces.dialect}') needs synthesize.selection.require_code = "
                "false: its traces have no code"
            )
        if self.evaluate.checkpoints and "sft" in self.evaluate.checkpoints and not self.cold_start:
            raise ValueError(
                "evaluate.checkpoints names 'sft' but cold_start = false: take it out of the list"
            )
        longest_trace = self.synthesize.teacher.max_response_tokens
        if self.synthesize.uses_engine and longest_trace > self.generation.max_response_tokens:
            raise ValueError(
                f"synthesize.teacher.max_response_tokens = {longest_trace} is more than the engine's "
                f"generation.max_response_tokens = {self.generation.max_response_tokens}; lower it"
            )
        for key, group in (("problems", "train"), ("evaluate_sets", "evaluation")):
            names = [source.name for source in getattr(self.data, group)]
            unknown = sorted(set(getattr(self.rl, key)) - set(names))
            if unknown:
                raise ValueError(
                    f"rl.{key}: '{unknown[0]}' is no set of data.{group}, which has {', '.join(names)}"
                )
        require_fitting(self.model, self.generation, self.rl)
        if self.cold_start:
            self.sft.optimizer.require_zero("sft.optimizer", self.model.dtype)
        return self

    def for_stage(self, stage: str) -> StageConfig:
        """The sections `stage` depends on. ValueError for an unknown one."""
        return find_stage(stage).config.of(self)
