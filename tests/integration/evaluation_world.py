"""A small evaluation with real parts: an untrained tiny checkpoint, two problem sets, a store, requests."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.report.spec import ReportStage
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.config import (
    EvaluateConfig,
    EvaluateStage,
    GenerationConfig,
    ModelConfig,
    SandboxConfig,
    TinyModel,
    TracesConfig,
)
from tasks.shared.contract.stage import StageRequest
from tasks.shared.rows.tables import write_table
from tests.artifacts import publish
from tests.integration.stages import stage_request

SHAPE = TinyModel(hidden_size=64, layers=2, intermediate_size=128, vocabulary=512)
SETS = {"held_out": 6, "other": 3}
SAMPLES = 12


@cache
def tiny_checkpoint(seed: int = 3) -> dict[str, bytes]:
    """The files of an untrained checkpoint, made once per process."""
    with tempfile.TemporaryDirectory() as directory:
        make_tiny_checkpoint(SHAPE, seed, Path(directory))
        return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def fill_sets(directory: Path, sets: dict[str, list[tuple[str, str, str]]]) -> None:
    """Write evaluation sets as `prepare` does. Rows are id, problem, answer."""
    import pyarrow as pa

    columns = ("id", "problem", "answer", "source", "family")
    schema = pa.schema([(column, pa.string()) for column in columns])
    for name, problems in sets.items():
        rows = [dict(zip(columns, (*problem, name, ""), strict=True)) for problem in problems]
        write_table(directory / f"{name}.parquet", rows, schema)
    listed = [{"name": name, "rows": len(problems), "answer": "integer"} for name, problems in sets.items()]
    (directory / "sets.json").write_text(json.dumps(listed))


def _fill_sums(directory: Path) -> None:
    sums = {
        name: [(f"{name}/{i}", f"What is {i} plus {i}?", str(2 * i)) for i in range(count)]
        for name, count in SETS.items()
    }
    fill_sets(directory, sums)


def evaluate_stage(**evaluate: Any) -> EvaluateStage:
    """The sections of a small evaluation."""
    return EvaluateStage(
        model=ModelConfig(source="tiny", dtype="float32", tiny=SHAPE),
        traces=TracesConfig(prompt="bare", max_calls=2),
        sandbox=SandboxConfig(workers=1, preload=("math",)),
        generation=GenerationConfig(
            engine="transformers", max_sequences=8, max_prompt_tokens=64, max_response_tokens=96
        ),
        evaluate=EvaluateConfig(**({"samples_per_problem": SAMPLES} | evaluate)),
    )


def evaluate_request(root: Path, scratch: str = "scratch", **evaluate: Any) -> StageRequest:
    """A request for `evaluate`; its inputs are published into `root`/store."""
    store = Store(str(root / "store"))
    checkpoint = publish(store, "checkpoint", tiny_checkpoint())
    return stage_request(
        root,
        "evaluate",
        evaluate_stage(**evaluate),
        {"checkpoint": checkpoint, "evaluation_sets": publish(store, "evaluation_sets", _fill_sums)},
        seed=7,
        scratch=scratch,
    )


def report_request(root: Path, inputs: dict[str, ArtifactRef], allow_unsafe: bool = False) -> StageRequest:
    """A request for `report` on these inputs."""
    stage = evaluate_stage()
    config = ReportStage(
        traces=stage.traces, sandbox=SandboxConfig(allow_unsafe=allow_unsafe), evaluate=stage.evaluate
    )
    return stage_request(root, "report", config, inputs, seed=7, scratch="report")
