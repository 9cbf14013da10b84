"""Runs stages in this process or in one of their own."""

import importlib
import json
from pathlib import Path
from typing import Any

from tasks.recipes import find_stage
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.config.section import Section
from tasks.shared.contract.stage import StageContext, StageRequest, StageResult, open_context
from tests.integration.processes import StageProcess


def stage_request(
    root: Path,
    stage: str,
    config: Section | dict[str, Any],
    inputs: dict[str, ArtifactRef] | None = None,
    *,
    seed: int = 0,
    scratch: str = "scratch",
    store: Path | None = None,
) -> StageRequest:
    """A request whose scratch directory, and store unless it is elsewhere, lie under `root`."""
    return StageRequest(
        stage=stage,
        run="test",
        config=config if isinstance(config, dict) else config.model_dump(mode="json"),
        inputs=inputs or {},
        seed=seed,
        store=str(store or root / "store"),
        scratch=str(root / scratch),
    )


def context_of(request: StageRequest) -> StageContext[Any]:
    """The argument of the stage's `run`, with an existing scratch directory."""
    return open_context(find_stage(request.stage), request)


def in_process(request: StageRequest) -> StageResult:
    """Run the stage in this process, without a start of seconds."""
    result: StageResult = importlib.import_module(f"tasks.{request.stage}.main").run(context_of(request))
    return result


def run_to_end(directory: Path, request: StageRequest, status: int = 0) -> list[dict[str, Any]]:
    """Run the stage as the launcher does. Returns its events, which must be its whole stdout."""
    directory.mkdir(parents=True, exist_ok=True)
    process = StageProcess(directory, request)
    out, _ = process.communicate(timeout=900)
    assert process.returncode == status, out[-2000:] + (directory / "stderr.txt").read_text()[-3000:]
    return [json.loads(line) for line in out.splitlines()]


def as_process(request: StageRequest) -> StageResult:
    """Run the stage as the launcher does, from its scratch directory. It must succeed."""
    scratch = Path(request.scratch)
    run_to_end(scratch, request)
    return result_of(scratch)


def run_stage(
    root: Path, stage: str, config: Section | dict[str, Any], inputs: dict[str, ArtifactRef], seed: int = 0
) -> StageResult:
    """Run a stage as the launcher does, with a scratch directory of its name, which a second call reuses."""
    return as_process(stage_request(root, stage, config, inputs, seed=seed, scratch=stage))


def result_of(directory: Path) -> StageResult:
    """The result that a stage has written into the directory of its request."""
    return StageResult.model_validate_json((directory / "result.json").read_text())


def outputs_of(directory: Path) -> dict[str, ArtifactRef]:
    """The stage's outputs."""
    return result_of(directory).outputs


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
