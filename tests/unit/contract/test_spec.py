"""What a stage is handed must be what it takes: names and kinds of its inputs."""

from contextlib import nullcontext

import pytest

from tasks.recipes import STAGES
from tasks.shared.artifacts import ArtifactRef


@pytest.mark.parametrize(
    ("stage", "name", "kind", "said"),
    [
        ("report", "rollouts_12", "rollouts", ""),
        ("synthesize", "pass_rates", "evaluation", ""),
        ("synthesize", "pass_rates", "traces", "takes rollouts or evaluation there"),
        ("sft", "traces", "checkpoint", "kind checkpoint: stage 'sft' takes traces there"),
        ("evaluate", "policy", "checkpoint", "stage 'evaluate' has checkpoint, evaluation_sets$"),
        ("prepare", "problems", "problems", "stage 'prepare' has no inputs"),
    ],
)
def test_an_input_is_one_that_the_stage_takes(stage: str, name: str, kind: str, said: str) -> None:
    given = {name: ArtifactRef(kind, "0" * 64, f"{kind}/0123456789abcdef-01234567")}
    with nullcontext() if not said else pytest.raises(ValueError, match=f"^input '{name}', .*{said}"):
        STAGES[stage].require_known(given)
