"""Sends metrics to TensorBoard, Weights & Biases or MLflow, if the recipe asks for it.

    tensorboard --logdir .tirflow/tensorboard        # <home>/tensorboard/<run>/<stage>

Metrics of a step that are written again, after a resume, replace the earlier ones (TensorBoard, MLflow's last value) or
are ignored by the service (W&B, whose steps only grow).
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from tasks.shared.config import MetricsSink
from tasks.shared.contract.environment import home
from tasks.shared.contract.stage import StageRequest, Value

PROJECT = "tirflow"
# Of an open sink: writes the numbers of a step, and closes it, after which everything is written.
Sink = tuple[Callable[[int, Mapping[str, float]], object], Callable[[], object]]


class MetricsSinks:
    """The sinks of one stage of one run, maybe none. For the first rank."""

    def __init__(self, names: Sequence[MetricsSink], request: StageRequest, step: int) -> None:
        """Open the named sinks; `step` steps were done before, and later ones will be logged again.

        Raises ValueError, before anything is opened, for a package that is not installed.
        """
        for name in names:
            if find_spec(name) is None:
                raise ValueError(
                    f"sinks names '{name}', whose package is not installed: pip install {name}, or leave it out"
                )
        directory = home() / "tensorboard" / request.run / request.stage
        self._sinks = [OPEN[name](directory, request, step) for name in names]

    def log(self, step: int, metrics: Mapping[str, Value]) -> None:
        """Log the metrics that are numbers; one without a value in this step is left out."""
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
        }
        for write, _ in self._sinks:
            write(step, numbers)

    def close(self) -> None:
        """Close every sink."""
        for _, close in self._sinks:
            close()


def _tensorboard(directory: Path, request: StageRequest, done: int) -> Sink:
    """Event files under `directory`; events after `done` steps, which an interrupted run has left, are purged."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(directory), purge_step=done + 1)

    def write(step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write, writer.close


def _wandb(directory: Path, request: StageRequest, done: int) -> Sink:
    """One W&B run a stage; W&B's environment variables name account and server, `directory` is for its local files."""
    import wandb

    directory.mkdir(parents=True, exist_ok=True)
    title = f"{request.run}/{request.stage}"
    name = title.replace("/", "-")  # the same for every round, so that they make one curve
    run = wandb.init(
        project=PROJECT, name=title, id=name, resume="allow", config=request.config, dir=str(directory)
    )
    last = 0

    def write(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal last
        last = max(last, step)  # an evaluation beside the round may come late
        run.log(dict(metrics), step=last)

    return write, run.finish


def _mlflow(directory: Path, request: StageRequest, done: int) -> Sink:
    """One MLflow run a stage; MLflow's environment variables name the tracking server."""
    import mlflow

    mlflow.set_experiment(PROJECT)
    mlflow.start_run(run_name=f"{request.run}/{request.stage}")
    mlflow.log_dict(request.config, "config.json")
    return lambda step, metrics: mlflow.log_metrics(dict(metrics), step=step), mlflow.end_run


OPEN: dict[MetricsSink, Callable[[Path, StageRequest, int], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
