"""The errors of the estimates of `seconds.py` against published step times: `data/published_steps.toml`."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.gpus import find_gpu
from data.models import find_model
from flows.planning.seconds import Engines, StepSeconds, Trainer, Work, step_seconds

PATH = Path(__file__).resolve().parents[2] / "data" / "published_steps.toml"


@dataclass(frozen=True, slots=True)
class Deviation:
    """One published figure beside the estimate of it."""

    name: str
    published: float  # seconds a step
    estimated: float

    @property
    def share(self) -> float:
        """The relative error of the estimate."""
        return self.estimated / self.published - 1


def deviations() -> list[Deviation]:
    """Synchronous and asynchronous step of every published run."""
    found = []
    for name, run in tomllib.loads(PATH.read_text(encoding="utf-8")).items():
        synchronous, asynchronous = estimates(run)
        found += [
            Deviation(f"{name}, synchronous", run["synchronous_s"], synchronous.synchronous),
            Deviation(f"{name}, asynchronous", run["asynchronous_s"], asynchronous.asynchronous),
        ]
    return found


def estimates(run: dict[str, Any]) -> tuple[StepSeconds, StepSeconds]:
    """Synchronous (all GPUs sample, then train, with a pass for old log-probs) and asynchronous (separate GPUs)."""
    work = Work(
        trajectories=run["prompts_per_step"] * run["samples_per_prompt"],
        mean_tokens=run["mean_response_tokens"],
        most_tokens=run["max_response_tokens"],
    )
    shape, gpu = find_model(run["model"]).shape, find_gpu(run["gpu"])
    row = run["max_prompt_tokens"] + run["max_response_tokens"]
    found = []
    for training, sampling, passes in (
        (run["gpus"], run["gpus"], 1),
        (run["training_gpus"], run["gpus"] - run["training_gpus"], 0),
    ):
        engines = Engines(sampling // run["tensor_parallel"], run["tensor_parallel"], slots=work.trajectories)
        trainer = Trainer(training, 3, row, updates=run["mini_batches"], forward_passes=passes)
        found.append(step_seconds(work, shape, gpu, engines, trainer))
    return found[0], found[1]
