"""A request for `synthesize` with a teacher at an endpoint: sums, one evaluation problem, a store."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.config import SandboxConfig, TracesConfig
from tasks.shared.contract.stage import StageRequest
from tasks.shared.rows.tables import write_table
from tasks.synthesize.config import SynthesizeConfig
from tasks.synthesize.spec import SynthesizeStage
from tests.artifacts import publish
from tests.integration.stages import stage_request

COLUMNS = ("id", "problem", "answer", "source", "family")
KEPT_ALIKE = {"max_similarity": 1.0, "decontaminate_ngram": 0}  # honest traces differ only in their numbers


def make_request(
    root: Path,
    cases: list[str],
    base_url: str,
    *,
    scratch: str = "scratch",
    traces: dict[str, Any] | None = None,
    sandbox: dict[str, Any] | None = None,
    inputs: dict[str, ArtifactRef] | None = None,
    teacher: dict[str, Any] | None = None,
    **synthesize: Any,
) -> StageRequest:
    """One problem for each case, "Case hang. What is 23 * 17 + 5?"; see `teacher_server`."""
    store = Store(str(root / "store"))
    rows = []
    for i, case in enumerate(cases):
        a, b, c = 23 + i, 17 + i % 13, 5 + i
        problem = f"Case {case}. What is {a} * {b} + {c}?"
        rows.append(dict(zip(COLUMNS, (f"sums/{i}", problem, str(a * b + c), "sums", ""), strict=True)))
    schema = pa.schema([(column, pa.string()) for column in COLUMNS])

    def fill_sets(directory: Path) -> None:
        held_out = dict(
            zip(COLUMNS, ("held/0", "Name the seventh prime number.", "17", "held", ""), strict=True)
        )
        write_table(directory / "held.parquet", [held_out], schema)
        (directory / "sets.json").write_text(json.dumps([{"name": "held", "rows": 1, "answer": "integer"}]))

    settings = {
        "mode": "live",
        "selection": KEPT_ALIKE,
        "teacher": {"base_url": base_url, "model": "teacher-1"} | (teacher or {}),
    }
    config = SynthesizeStage(
        traces=TracesConfig(**({"prompt": "bare", "max_calls": 3} | (traces or {}))),
        sandbox=SandboxConfig(
            **(
                {"workers": 2, "wall_s": 3.0, "cpu_s": 3.0, "memory_mb": 512, "preload": ("math",)}
                | (sandbox or {})
            )
        ),
        synthesize=SynthesizeConfig(**(settings | synthesize)),
    )
    published = {
        "problems": publish(store, "problems", lambda d: write_table(d / "train.parquet", rows, schema)),
        "evaluation_sets": publish(store, "evaluation_sets", fill_sets),
    }
    return stage_request(root, "synthesize", config, published | (inputs or {}), seed=3, scratch=scratch)


def start(request: StageRequest, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """The stage as a process; its events come on stdout."""
    scratch = Path(request.scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "request.json"
    path.write_text(request.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.synthesize.main", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, last event, and all output of the stage."""
    out, err = process.communicate(timeout=600)
    return process.returncode, json.loads(out.splitlines()[-1]) if out else {}, out + err
