"""A request for stage `rl` in a store of the benchmark's own."""

import shutil
from pathlib import Path

from tasks.rl.spec import RlStage
from tasks.shared.artifacts import Provenance, Store
from tasks.shared.contract.stage import StageRequest


def make_request(
    root: Path, config: RlStage, checkpoint: Path, problems: Path, *, seed: int = 0, scratch: str = "scratch"
) -> StageRequest:
    """A round that begins with the folder `checkpoint` on the folder `problems`; store and scratch are under `root`."""
    store = Store(str(root / "store"))
    inputs = {}
    for kind, source in (("checkpoint", checkpoint), ("problems", problems)):
        with store.staging(kind) as directory:
            shutil.copytree(source, directory, dirs_exist_ok=True)
            inputs[kind] = store.publish(kind, directory, Provenance("benchmark", {}, 0, {}))
    return StageRequest(
        stage="rl",
        run="benchmark",
        config=config.model_dump(mode="json"),
        inputs=inputs,
        seed=seed,
        store=store.root,
        scratch=str(root / scratch),
    )
