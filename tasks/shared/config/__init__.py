"""The sections of the configuration tree that more than one stage reads, or that are read without a stage.

Defaults are the vetted production setting; a recipe lists only what differs, with the reason. Unknown keys are errors.
The tree itself, `Recipe`, is in `tasks/recipes`. Loads without torch and without Prefect.
"""

from tasks.shared.config.data import DataConfig, ModelConfig, ProblemSource, TinyModel
from tasks.shared.config.evaluation import EvaluateConfig, EvaluateStage
from tasks.shared.config.generation import GenerationConfig, PoolConfig
from tasks.shared.config.section import Section, StageConfig
from tasks.shared.config.serving import ServeConfig
from tasks.shared.config.synthesis import SynthesizeConfig
from tasks.shared.config.traces import DialectName, SandboxConfig, TracesConfig
from tasks.shared.config.training import CriticConfig, MetricsSink, OptimizerConfig, RlConfig, SftConfig

__all__ = [
    "CriticConfig",
    "DataConfig",
    "DialectName",
    "EvaluateConfig",
    "EvaluateStage",
    "GenerationConfig",
    "MetricsSink",
    "ModelConfig",
    "OptimizerConfig",
    "PoolConfig",
    "ProblemSource",
    "RlConfig",
    "SandboxConfig",
    "Section",
    "ServeConfig",
    "SftConfig",
    "StageConfig",
    "SynthesizeConfig",
    "TinyModel",
    "TracesConfig",
]
