"""Stage `evaluate`: k samples a problem, with intervals and behaviour.

Its configuration is that of everything that grades samples (`tasks/shared/config/evaluation.py`).
"""

from collections.abc import Mapping
from typing import TypeVar

from tasks.shared.config import EvaluateStage
from tasks.shared.contract.environment import SANDBOX_TOKEN
from tasks.shared.contract.spec import StageSpec

Kind = TypeVar("Kind")

EVALUATE = StageSpec(
    name="evaluate",
    config=EvaluateStage,
    inputs={"checkpoint": "checkpoint", "evaluation_sets": "evaluation_sets"},
    outputs={"evaluation": "evaluation"},
    runs_code=True,
    secrets=(SANDBOX_TOKEN,),
    network=lambda config: config.evaluate.endpoint.is_asked,
    engine=lambda config: "" if config.evaluate.endpoint.is_asked else config.generation.engine,
    vllm_image="inference",
)


def evaluations(stages: Mapping[str, Kind]) -> dict[str, Kind]:
    """Those of a run's stages that are evaluations, by the name of what was evaluated."""
    labels = {label: label.removeprefix(f"{EVALUATE.name}-") for label in stages}
    return {name: stages[label] for label, name in labels.items() if name != label}
