"""Weights that are kept during a round, and the points of its curve."""

from pathlib import Path
from typing import Any

import pytest

from tasks.rl.best import BestWeights, best_of
from tasks.rl.config import RlConfig
from tasks.rl.evaluation import measures


def points(**accuracies: float | None) -> list[dict[str, Any]]:
    return [{"step": int(name.removeprefix("s")), "accuracy": value} for name, value in accuracies.items()]


def written(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("step-*"))


def save(directory: Path) -> None:
    (directory / "weights").write_text("")


def test_the_first_maximum_after_the_start_is_best() -> None:
    assert best_of(points(s0=0.9, s2=0.4, s4=0.6, s6=0.6, s8=None)) == {"step": 4, "accuracy": 0.6}
    assert best_of(points(s0=0.9)) is None


def test_weights_for_a_resumed_round_are_kept(tmp_path: Path) -> None:
    weights = BestWeights(tmp_path / "best", "round", step=0)
    for step in (2, 4, 6):
        weights.write(step, save)
    weights.prune(points(s2=0.5, s4=0.7), saved=2, running=6)
    assert written(tmp_path / "best") == ["step-000002", "step-000004", "step-000006"]
    weights.prune(points(s2=0.5, s4=0.7, s6=0.6), saved=2)
    assert written(tmp_path / "best") == ["step-000002", "step-000004"]
    assert written_after_a_kill(tmp_path / "best", step=2) == ["step-000002"]
    weights.prune(points(s2=0.5), saved=4)
    assert written(tmp_path / "best") == ["step-000002"]


def written_after_a_kill(directory: Path, step: int) -> list[str]:
    (directory / "step-000002.partial").mkdir()
    BestWeights(directory, "round", step)
    return written(directory)


def test_a_point_has_the_problem_as_its_unit() -> None:
    grades = [("a", f"p{i}", i < 2) for i in range(4) for _ in range(8)] + [("b", "q", True)]
    point = measures(grades, num_requested=34)
    assert (point["a/accuracy"], point["b/accuracy"], point["accuracy"]) == (0.5, 1.0, 0.75)
    assert (point["samples"], point["void"]) == (33, 1)
    assert point["a/high"] - point["a/low"] > 0.9, "four problems, whatever their samples"
    assert measures([], num_requested=2)["accuracy"] is None


def test_best_needs_evaluations() -> None:
    with pytest.raises(ValueError, match=r"set rl\.evaluate_every_steps to 1 or more"):
        RlConfig(keep="best")
