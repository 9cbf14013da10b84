"""The smallest request of each stage with real parts; store and scratch lie in one folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.recipes import load_recipe
from tasks.shared.contract.stage import StageRequest
from tests.integration import evaluation_world, rl_world, sft_world
from tests.integration.stages import in_process, stage_request

SETS = {"name": "held_out", "source": "tiny", "split": "held_out", "limit": 3}
TRAIN = {"name": "tiny", "source": "tiny", "split": "train", "limit": 30}


def environment(home: Path) -> dict[str, str]:
    """This process's environment, with a home of the drill's own."""
    return os.environ | {"TIRFLOW_HOME": str(home / "home"), "OMP_NUM_THREADS": "1"}


def prepare(folder: Path) -> StageRequest:
    """Thirty problems and a random model."""
    folder.mkdir(exist_ok=True)
    config = {
        "model": {"source": "tiny", "dtype": "float32", "tiny": evaluation_world.SHAPE.model_dump()},
        "data": {"train": [TRAIN], "evaluation": [SETS]},
    }
    return stage_request(folder, "prepare", config)


def synthesize(folder: Path) -> StageRequest:
    """Scripted traces for the problems of `prepare`."""
    first = prepare(folder)
    outputs = in_process(first).outputs
    recipe = load_recipe("tiny", {"sandbox.workers": 1})
    return first.model_copy(
        update={
            "stage": "synthesize",
            "config": recipe.for_stage("synthesize").model_dump(mode="json"),
            "inputs": {name: outputs[name] for name in ("problems", "evaluation_sets")},
        }
    )


def sft(folder: Path) -> StageRequest:
    """A few steps on a few dozen traces."""
    return sft_world.make_request(folder)


def sft_two_ranks(folder: Path) -> StageRequest:
    """The same on two DeepSpeed ranks."""
    return sft_world.make_request(folder, zero_stage=2, ranks=2)


def rl(folder: Path, **changes: Any) -> StageRequest:
    """Three steps of eight samples with live code."""
    folder.mkdir(exist_ok=True)
    small: dict[str, Any] = {"steps_per_round": 3, "prompts_per_step": 2, "samples_per_prompt": 4}
    return rl_world.make_request(folder, rl_world.make_store(folder, hidden=32), **small, **changes)


def rl_two_ranks(folder: Path) -> StageRequest:
    """The same on two DeepSpeed ranks."""
    return rl(folder, optimizer=rl_world.OPTIMIZER.model_copy(update={"ranks": 2, "zero_stage": 2}))


def evaluate(folder: Path) -> StageRequest:
    """Nine problems, two samples each."""
    return evaluation_world.evaluate_request(folder, samples_per_problem=2)


def report(folder: Path) -> StageRequest:
    """A report on that evaluation."""
    outputs = in_process(evaluate(folder)).outputs
    return evaluation_world.report_request(folder, {"evaluation_base": outputs["evaluation"]})


REQUESTS: dict[str, Callable[[Path], StageRequest]] = {
    "prepare": prepare,
    "synthesize": synthesize,
    "sft": sft,
    "sft_two_ranks": sft_two_ranks,
    "rl": rl,
    "rl_two_ranks": rl_two_ranks,
    "evaluate": evaluate,
    "report": report,
}
