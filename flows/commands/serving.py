"""`tirflow ask` and `tirflow serve`: find checkpoint and recipe, and run in the environment that the engine needs.

A checkpoint is named by its location, the start of its digest, a tag, RUN/STAGE, or a folder. It is asked as the recipe
of its run evaluates. A folder needs the name of a recipe.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.commands.plan import read_override
from flows.names import find_checkpoint
from tasks.evaluate.spec import EVALUATE
from tasks.launch.backends.process import interpreter_for
from tasks.recipes import Recipe, load_recipe, resolve_recorded
from tasks.serve.request import ServeRequest
from tasks.shared.artifacts import Store
from tasks.shared.config import EvaluateStage
from tasks.shared.contract.environment import home, store_uri
from tasks.shared.runs.record import RunRecords

ROOT = Path(__file__).resolve().parents[2]


def run_on_checkpoint(
    command: str, checkpoint: str, recipe: str, engine: str, changes: Sequence[str], **given: Any
) -> int:
    """Run `ask` or `serve` on a checkpoint. Returns the exit code.

    `engine` replaces the recipe's. `changes` are key=value each. `given` has other fields of the request. Raises
    ValueError for a mistake. With vLLM this process is replaced by one in the environment that has vLLM.
    """
    request = make_request(checkpoint, recipe, engine, changes, **given)
    python = interpreter_for(EVALUATE.engine(request.config))
    if python != Path(sys.executable):
        path = request.scratch / "request.json"
        path.write_text(request.model_dump_json(indent=1), encoding="utf-8")
        os.chdir(ROOT)
        os.execv(python, [str(python), "-m", "tasks.serve.main", command, str(path)])
    from tasks.serve.main import run_command  # torch takes seconds to import

    return run_command(command, request)


def make_request(
    checkpoint: str, recipe: str, engine: str, changes: Sequence[str], **given: Any
) -> ServeRequest:
    """Make the request of a command line. Raises ValueError if there is no such checkpoint, or no recipe for it."""
    overrides = dict(read_override(text) for text in changes) | _engine(engine)
    directory, made_by = find_checkpoint(Store(store_uri()), checkpoint)
    resolved = load_recipe(recipe, overrides) if recipe else _recorded(made_by, checkpoint, overrides)
    config = resolved.for_stage("evaluate")
    assert isinstance(config, EvaluateStage)
    scratch = home() / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    return ServeRequest(
        name=directory.name if Path(checkpoint).is_dir() else checkpoint,
        checkpoint=directory,
        config=config.limited(),
        serve=resolved.serve,
        scratch=Path(tempfile.mkdtemp(prefix="serve-", dir=scratch)),
        **given,
    )


def _recorded(run: str, checkpoint: str, overrides: dict[str, Any]) -> Recipe:
    if not run:
        raise ValueError(
            f"checkpoint '{checkpoint}': no run of this store made it; name the recipe that says how to ask it: "
            "--recipe NAME"
        )
    record = RunRecords(store_uri()).read(run)
    return resolve_recorded(record.recipe, overrides, run, "evaluate")


def _engine(name: str) -> dict[str, Any]:
    """Return the overrides for an engine. The Transformers engine has no pool."""
    overrides = {
        "": {},
        "vllm": {"generation.engine": "vllm"},
        "transformers": {"generation.engine": "transformers", "generation.placement": "inside"},
    }
    if name not in overrides:
        raise ValueError(f"--engine {name}: write transformers or vllm")
    return overrides[name]
