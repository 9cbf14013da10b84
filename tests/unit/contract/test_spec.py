"""Inputs that a stage takes by name and kind, and how it reports an error of its storage."""

from contextlib import nullcontext

import pytest

from tasks.recipes import STAGES
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.stage import _explain


@pytest.mark.parametrize(
    ("stage", "name", "kind", "message"),
    [
        ("report", "rollouts_12", "rollouts", ""),
        ("synthesize", "pass_rates", "evaluation", ""),
        ("synthesize", "pass_rates", "traces", "takes rollouts or evaluation there"),
        ("sft", "traces", "checkpoint", "kind checkpoint: stage 'sft' takes traces there"),
        ("evaluate", "policy", "checkpoint", "stage 'evaluate' has checkpoint, evaluation_sets$"),
        ("prepare", "problems", "problems", "stage 'prepare' has no inputs"),
    ],
)
def test_an_input_is_one_that_the_stage_takes(stage: str, name: str, kind: str, message: str) -> None:
    given = {name: ArtifactRef(kind, "0" * 64, f"{kind}/0123456789abcdef-01234567")}
    with nullcontext() if not message else pytest.raises(ValueError, match=f"^input '{name}', .*{message}"):
        STAGES[stage].require_known(given)


def test_a_storage_error_without_a_file_names_no_file() -> None:
    assert _explain(ConnectionResetError(104, "Connection reset by peer")).startswith(
        "Connection reset by peer; "
    )
    assert _explain(PermissionError(13, "Permission denied", "/store")).startswith(
        "Permission denied: /store; "
    )
