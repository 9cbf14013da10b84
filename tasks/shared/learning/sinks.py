"""Sends metrics to TensorBoard, Weights & Biases or MLflow, if the recipe asks for it.

    tensorboard --logdir .tirflow/tensorboard        # <home>/tensorboard/<run>/<stage>

Metrics of a step that are written again, after a resume, replace the earlier ones (TensorBoard, MLflow's last value) or
are ignored by the service (W&B, whose steps only grow).
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tasks.shared.config import MetricsSink
from tasks.shared.contract.stage import Value

PROJECT = "tirflow"


class Sink(Protocol):
    """Takes the metrics of one step after another."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of step `step`."""

    def close(self) -> None:
        """Everything logged is written when this returns."""


class MetricsSinks:
    """The sinks of one stage of one run, maybe none. For the first rank."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def log(self, step: int, metrics: Mapping[str, Value]) -> None:
        """Log the metrics that are numbers; one without a value in this step is left out."""
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
        }
        for sink in self._sinks:
            sink.log(step, numbers)

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            sink.close()


def open_sinks(
    names: Sequence[MetricsSink], directory: Path, run: str, stage: str, config: Mapping[str, Any], step: int
) -> MetricsSinks:
    """The named sinks; `step` steps were done before, and later ones will be logged again.

    Raises ValueError, before anything is opened, for a package that is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise ValueError(
                f"sinks names '{name}', whose package is not installed: pip install {name}, or leave it out"
            )
    return MetricsSinks(
        [_open(name, directory / run / stage, f"{run}/{stage}", config, step) for name in names]
    )


def _open(name: MetricsSink, directory: Path, title: str, config: Mapping[str, Any], step: int) -> Sink:
    if name == "tensorboard":
        return TensorBoard(directory, step)
    return WeightsAndBiases(directory, title, config) if name == "wandb" else MlFlow(title, config)


class TensorBoard:
    """Event files under `directory`; events after `step`, which an interrupted run has left, are purged."""

    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(directory), purge_step=step + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar a metric, flushed to disk at once."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """One W&B run a stage; W&B's environment variables name account and server."""

    def __init__(self, directory: Path, title: str, config: Mapping[str, Any]) -> None:
        """`directory` is for W&B's own local files."""
        import wandb

        directory.mkdir(parents=True, exist_ok=True)
        name = title.replace("/", "-")  # the same for every round, so that they make one curve
        self._run: Any = wandb.init(
            project=PROJECT, name=title, id=name, resume="allow", config=dict(config), dir=str(directory)
        )
        self._last = 0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log to the step, or to the last one if that is later: an evaluation beside the round may come late."""
        self._last = max(self._last, step)
        self._run.log(dict(metrics), step=self._last)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MlFlow:
    """One MLflow run a stage; MLflow's environment variables name the tracking server."""

    def __init__(self, title: str, config: Mapping[str, Any]) -> None:
        import mlflow

        self._client: Any = mlflow
        mlflow.set_experiment(PROJECT)
        mlflow.start_run(run_name=title)
        mlflow.log_dict(dict(config), "config.json")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """All metrics of the step at once."""
        self._client.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        """End the run."""
        self._client.end_run()
