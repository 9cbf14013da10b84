"""The sections of the configuration tree that more than one stage reads.

Defaults are the vetted production setting; a recipe lists only what differs, with the reason. Unknown keys are errors.
A stage's own sections are with the stage; the tree itself, `Recipe`, is in `tasks/recipes`. Loads without torch and
without Prefect.
"""

from tasks.shared.config.evaluation import EvaluateConfig, EvaluateStage
from tasks.shared.config.generation import GenerationConfig, PoolConfig
from tasks.shared.config.model import ModelConfig, TinyModel
from tasks.shared.config.optimizer import LoraConfig, MetricsSink, OptimizerConfig
from tasks.shared.config.section import Section, StageConfig
from tasks.shared.config.traces import DialectName, SandboxConfig, TracesConfig

__all__ = [
    "DialectName",
    "EvaluateConfig",
    "EvaluateStage",
    "GenerationConfig",
    "LoraConfig",
    "MetricsSink",
    "ModelConfig",
    "OptimizerConfig",
    "PoolConfig",
    "SandboxConfig",
    "Section",
    "StageConfig",
    "TinyModel",
    "TracesConfig",
]
