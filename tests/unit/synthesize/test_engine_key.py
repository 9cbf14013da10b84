"""A response of a model in this process is reused only if the same one would be sampled."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.shared.config import GenerationConfig, ModelConfig, SandboxConfig, TracesConfig
from tasks.shared.generation.endpoint.responses import ResponseKey, ResponseLog
from tasks.synthesize.config import SynthesizeConfig
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.teachers.engine import EngineTeacher, Weights
from tasks.synthesize.teachers.prompting import TraceRequest
from tasks.synthesize.traces import TrainingProblem
from tasks.synthesize.verify import Rules
from tests.unit.synthesize.in_process import InProcessRunner

WANTED = TraceRequest(TrainingProblem("sums/0", "What is 1 plus 1?", "2", "sums", ""), 0)
WEIGHTS = Weights(Path("/models/a/model"), "model", "0" * 64)


def key_of(tmp_path: Path, seed: int = 1, weights: Weights = WEIGHTS, **changed: Any) -> ResponseKey:
    sections: dict[str, Any] = {
        "traces": TracesConfig(),
        "sandbox": SandboxConfig(),
        "generation": GenerationConfig(),
        "model": ModelConfig(source="tiny"),
        "synthesize": SynthesizeConfig(mode="bootstrap", teacher={"backend": "engine"}),
    }
    config = SynthesizeStage(**(sections | changed))
    log = ResponseLog(tmp_path / "log")
    teacher = EngineTeacher(config, Rules.of(config), InProcessRunner(), log, seed, weights, tmp_path)
    return teacher._key(WANTED)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 2},
        {"weights": replace(WEIGHTS, digest="1" * 64)},
        {"traces": TracesConfig(max_calls=2)},
        {"traces": TracesConfig(block_notices=False)},
        {"traces": TracesConfig(error_feedback="last_line")},
        {"sandbox": SandboxConfig(stateful=True)},
        {"sandbox": SandboxConfig(wall_s=1.0)},
        {"generation": GenerationConfig(engine="transformers")},
        {"model": ModelConfig(source="tiny", dtype="float32")},
    ],
    ids=str,
)
def test_what_a_response_depends_on_is_in_its_key(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert key_of(tmp_path) != key_of(tmp_path, **changed)


def test_dialects_that_share_a_prompt_share_no_response(tmp_path: Path) -> None:
    retool, torl = (TracesConfig(prompt="bare", dialect=name) for name in ("retool", "torl"))
    assert key_of(tmp_path, traces=retool) != key_of(tmp_path, traces=torl)


def test_what_it_does_not_depend_on_is_not(tmp_path: Path) -> None:
    elsewhere = replace(WEIGHTS, checkpoint=Path("/models/b"), name="b")
    more = {"sandbox": SandboxConfig(workers=9), "weights": elsewhere}
    assert key_of(tmp_path) == key_of(tmp_path, **more)
