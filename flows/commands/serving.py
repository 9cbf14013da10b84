"""`tirflow ask` and `tirflow serve`: which checkpoint and recipe are meant, and the environment that they run in.

A checkpoint is named by its location, the start of its digest, a tag, RUN/STAGE, or a folder. It is asked as the
recipe of the run that made it evaluates; a folder needs a recipe by name.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.commands.plan import read_override
from tasks.evaluate.spec import EVALUATE
from tasks.launch.backends.process import interpreter_for
from tasks.recipes import Recipe, load_recipe, resolve_recorded
from tasks.serve.request import ServeRequest
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.config import EvaluateStage
from tasks.shared.contract.environment import home, store_uri
from tasks.shared.runs.record import RunRecords
from tasks.shared.runs.tags import Tags

ROOT = Path(__file__).resolve().parents[2]


def run_on_checkpoint(
    command: str, checkpoint: str, recipe: str, engine: str, changes: Sequence[str], **given: Any
) -> int:
    """Run `ask` or `serve` on a checkpoint; the exit code.

    `engine`: in place of the recipe's; `changes`: key=value each; `given`: other fields of the request. ValueError, one
    line, for a mistake. With vLLM this process becomes one of the environment that has it.
    """
    request = make_request(checkpoint, recipe, engine, changes, **given)
    python = interpreter_for(EVALUATE.engine(request.config))
    if python != Path(sys.executable):
        path = request.scratch / "request.json"
        path.write_text(request.model_dump_json(indent=1), encoding="utf-8")
        os.chdir(ROOT)
        os.execv(python, [str(python), "-m", "tasks.serve.main", command, str(path)])
    from tasks.serve.main import carry_out  # torch takes seconds to import

    return carry_out(command, request)


def make_request(
    checkpoint: str, recipe: str, engine: str, changes: Sequence[str], **given: Any
) -> ServeRequest:
    """The request that a command line means. ValueError, one line: no such checkpoint, or no recipe for it."""
    overrides = dict(read_override(text) for text in changes) | _engine(engine)
    folder = Path(checkpoint)
    if folder.is_dir():
        directory, made_by = folder.resolve(), ""
        if not recipe:
            raise ValueError(
                f"folder '{checkpoint}': name the recipe that says how it is asked: --recipe tiny"
            )
    else:
        store = Store(store_uri())
        ref, made_by = find_checkpoint(store, checkpoint)
        directory = store.fetch(ref)
    resolved = load_recipe(recipe, overrides) if recipe else _recorded(made_by, checkpoint, overrides)
    config = resolved.for_stage("evaluate")
    assert isinstance(config, EvaluateStage)
    scratch = home() / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    return ServeRequest(
        name=folder.name if folder.is_dir() else checkpoint,
        checkpoint=directory,
        config=config.limited(),
        serve=resolved.serve,
        scratch=Path(tempfile.mkdtemp(prefix="serve-", dir=scratch)),
        **given,
    )


def find_checkpoint(store: Store, name: str) -> tuple[ArtifactRef, str]:
    """The checkpoint of that name and the run that it is of, "" if no record knows. ValueError if there is none."""
    from flows.commands.artifacts import find

    records = RunRecords(store.root)
    tagged = Tags(store.root).current(name) if "/" not in name else None
    if tagged is not None:
        return tagged.checkpoint, tagged.run
    run, _, label = name.partition("/")
    if label and run in records.names():
        stage, _, output = label.partition("/")
        return records.read(run).output(stage, output or "checkpoint"), run
    if not Path(name).exists() and name.startswith((".", "/", "~")):
        raise ValueError(f"checkpoint '{name}': there is no such folder")
    ref = find(store, name)
    if ref.kind != "checkpoint":
        raise ValueError(f"'{name}' is an artifact of kind {ref.kind}; ask and serve take a checkpoint")
    return ref, next((run for run in records.names() if _made(records, run, ref)), "")


def _made(records: RunRecords, run: str, ref: ArtifactRef) -> bool:
    """Whether a stage of that run gave this artifact."""
    stages = records.read(run).stages.values()
    return any(ref.digest == output.digest for stage in stages for output in stage.outputs.values())


def _recorded(run: str, checkpoint: str, overrides: dict[str, Any]) -> Recipe:
    if not run:
        raise ValueError(
            f"checkpoint '{checkpoint}': no run of this store made it; say how it is asked with --recipe NAME"
        )
    record = RunRecords(store_uri()).read(run)
    return resolve_recorded(record.recipe, overrides, run, "evaluate")


def _engine(name: str) -> dict[str, Any]:
    """The overrides that choose an engine; the embedded one has no pool."""
    if not name:
        return {}
    if name not in ("transformers", "vllm"):
        raise ValueError(f"--engine {name}: it is transformers or vllm")
    return {"generation.engine": name} | (
        {"generation.placement": "inside"} if name == "transformers" else {}
    )
