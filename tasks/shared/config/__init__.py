"""The one configuration tree: recipes (TOML under `flows/recipes/`) are parsed into it before anything starts.

Defaults are the vetted production setting; a recipe lists only what differs, with the reason. Unknown keys fail with
a one-line `ValueError` that names file, key and remedy. `Recipe.for_stage` hands a stage only the sections it depends
on, so that a changed RL rate does not rerun SFT. Loads without torch and without Prefect.
"""

from tasks.shared.config.data import (
    DataConfig,
    ModelConfig,
    ProblemSource,
    TinyModel,
)
from tasks.shared.config.generation import (
    GenerationConfig,
    PoolConfig,
)
from tasks.shared.config.section import (
    Section,
)
from tasks.shared.config.serving import (
    ServeConfig,
)
from tasks.shared.config.stages import (
    STAGE_CONFIGS,
    DialectName,
    EvaluateConfig,
    EvaluateStage,
    PrepareStage,
    Recipe,
    ReportConfig,
    ReportStage,
    RlStage,
    SandboxConfig,
    SftStage,
    SynthesizeStage,
    TracesConfig,
)
from tasks.shared.config.synthesis import (
    SynthesizeConfig,
)
from tasks.shared.config.training import (
    CriticConfig,
    MetricsSink,
    OptimizerConfig,
    RlConfig,
    SftConfig,
)

__all__ = [
    "STAGE_CONFIGS",
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
    "PrepareStage",
    "ProblemSource",
    "Recipe",
    "ReportConfig",
    "ReportStage",
    "RlConfig",
    "RlStage",
    "SandboxConfig",
    "Section",
    "ServeConfig",
    "SftConfig",
    "SftStage",
    "SynthesizeConfig",
    "SynthesizeStage",
    "TinyModel",
    "TracesConfig",
]
