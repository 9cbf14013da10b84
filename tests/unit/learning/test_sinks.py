"""Metrics sinks: TensorBoard reads numbers back, also after an interruption; missing packages are named."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tasks.shared.config import MetricsSink
from tasks.shared.contract.stage import StageRequest
from tasks.shared.learning import sinks
from tasks.shared.learning.sinks import MetricsSinks


@pytest.fixture
def request_in_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageRequest:
    """A request of stage `rl` in run `demo`; TensorBoard's files lie under `tmp_path`."""
    monkeypatch.setenv("TIRFLOW_HOME", str(tmp_path))
    return StageRequest(stage="rl", run="demo", config={}, inputs={}, seed=0, store="", scratch="")


def read(directory: Path) -> EventAccumulator:
    events = EventAccumulator(str(directory))
    events.Reload()
    return events


def test_tensorboard_shows_numbers_alone_and_each_step_once(
    request_in_home: StageRequest, tmp_path: Path
) -> None:
    """Interrupted after step 4, resumed after step 2: steps 3 and 4 are those of the second process."""
    for first, last, offset in ((1, 4, 0.5), (3, 5, 0.25)):
        opened = MetricsSinks(("tensorboard",), request_in_home, first - 1)
        for step in range(first, last + 1):
            opened.log(
                step, {"step": step, "reward": step + offset, "pass_ratio": None, "done": True, "n": 3}
            )
        opened.close()
    events = read(tmp_path / "tensorboard" / "demo" / "rl")
    rewards = [(event.step, event.value) for event in events.Scalars("reward")]
    assert rewards == [(1, 1.5), (2, 2.5), (3, 3.25), (4, 4.25), (5, 5.25)]
    assert sorted(events.Tags()["scalars"]) == ["n", "reward"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_named(
    name: MetricsSink, request_in_home: StageRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda asked: None if asked == name else object())
    with pytest.raises(ValueError, match=f"'{name}', whose package is not installed: pip install {name}"):
        MetricsSinks(("tensorboard", name), request_in_home, 0)
    assert not any(tmp_path.iterdir())


def test_no_sinks_do_nothing(request_in_home: StageRequest, tmp_path: Path) -> None:
    opened = MetricsSinks((), request_in_home, 0)
    opened.log(1, {"loss": 1.0})
    opened.close()
    assert not any(tmp_path.iterdir())


def test_what_services_are_given(request_in_home: StageRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins of both packages: every round of a run is one curve, whose steps only grow in W&B."""
    told: list[tuple[str, object]] = []
    run = SimpleNamespace(
        log=lambda metrics, step: told.append(("wandb", (step, metrics))),
        finish=lambda: told.append(("wandb", "finished")),
    )

    def init(**settings: object) -> SimpleNamespace:
        told.append(("wandb", (settings["name"], settings["id"])))
        return run

    mlflow = SimpleNamespace(
        set_experiment=lambda _: None,
        start_run=lambda run_name: told.append(("mlflow", run_name)),
        log_dict=lambda _, name: told.append(("mlflow", name)),
        log_metrics=lambda metrics, step: told.append(("mlflow", (step, metrics))),
        end_run=lambda: told.append(("mlflow", "finished")),
    )
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setattr(sinks, "find_spec", lambda _: object())
    opened = MetricsSinks(("wandb", "mlflow"), request_in_home, 0)
    opened.log(4, {"reward": 1})
    opened.log(2, {"late": 0.5})  # of an evaluation beside the round
    opened.close()
    of = {name: [said for who, said in told if who == name] for name in ("wandb", "mlflow")}
    assert of["wandb"] == [("demo/rl", "demo-rl"), (4, {"reward": 1.0}), (4, {"late": 0.5}), "finished"]
    assert of["mlflow"] == ["demo/rl", "config.json", (4, {"reward": 1.0}), (2, {"late": 0.5}), "finished"]
