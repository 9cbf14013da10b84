"""Metrics sinks: TensorBoard reads numbers back, also after an interruption; missing packages are named."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tasks.shared.config import MetricsSink
from tasks.shared.learning import sinks
from tasks.shared.learning.sinks import open_sinks


def read(directory: Path) -> EventAccumulator:
    events = EventAccumulator(str(directory))
    events.Reload()
    return events


def test_tensorboard_shows_numbers_alone_and_each_step_once(tmp_path: Path) -> None:
    """Interrupted after step 4, resumed after step 2: steps 3 and 4 are those of the second process."""
    for first, last, offset in ((1, 4, 0.5), (3, 5, 0.25)):
        opened = open_sinks(("tensorboard",), tmp_path, "demo", "rl", {}, first - 1)
        for step in range(first, last + 1):
            opened.log(
                step, {"step": step, "reward": step + offset, "pass_ratio": None, "done": True, "n": 3}
            )
        opened.close()
    events = read(tmp_path / "demo" / "rl")
    rewards = [(event.step, event.value) for event in events.Scalars("reward")]
    assert rewards == [(1, 1.5), (2, 2.5), (3, 3.25), (4, 4.25), (5, 5.25)]
    assert sorted(events.Tags()["scalars"]) == ["n", "reward"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_named(
    name: MetricsSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda asked: None if asked == name else object())
    with pytest.raises(ValueError, match=f"'{name}', whose package is not installed: pip install {name}"):
        open_sinks(("tensorboard", name), tmp_path, "demo", "rl", {}, 0)
    assert not any(tmp_path.iterdir())


def test_no_sinks_do_nothing(tmp_path: Path) -> None:
    opened = open_sinks((), tmp_path, "demo", "sft", {}, 0)
    opened.log(1, {"loss": 1.0})
    opened.close()
    assert not any(tmp_path.iterdir())
