"""`rl.keep = "best"`: the weights of the best point of the curve, kept until the round publishes them.

Weights are written before their evaluation has ended, because the trainer changes them meanwhile, and are removed if
they are not the best. A resumed round may repeat the evaluations after the last saved state. So the best of the points
up to that state is kept, whatever later points show.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks.shared.contract.scratch import claim

Point = dict[str, Any]


class BestWeights:
    """Weights of some steps of one round, each in a directory of its own. In the first rank."""

    def __init__(self, directory: Path, fingerprint: str, step: int) -> None:
        """Remove the weights of steps after `step`, because these steps will be repeated."""
        claim(directory, fingerprint, "best weights")
        self._directory = directory
        for path in directory.glob("step-*"):
            if path.suffix or _step_of(path) > step:
                shutil.rmtree(path)

    def write(self, step: int, save: Callable[[Path], None]) -> None:
        """Keep the weights after `step` steps for now; `save` writes them into the directory it is given."""
        partial = self._path(step).with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save(partial)
        shutil.rmtree(self._path(step), ignore_errors=True)
        partial.rename(self._path(step))

    def prune(self, points: Sequence[Point], saved: int, running: int | None = None) -> None:
        """Remove weights that can no longer be the best; `saved`: the step from which a killed round would resume.

        `running`: the step under evaluation.
        """
        until_saved = best_of([point for point in points if point["step"] <= saved])
        kept = {point["step"] for point in (until_saved, best_of(points)) if point} | {running}
        for path in self._directory.glob("step-*"):
            if _step_of(path) not in kept:
                shutil.rmtree(path)

    def path_of(self, point: Point) -> Path:
        """The path of a point's weights."""
        return self._path(point["step"])

    def _path(self, step: int) -> Path:
        return self._directory / f"step-{step:06d}"


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def best_of(points: Sequence[Point]) -> Point | None:
    """The first point with the highest accuracy; the run's initial weights (step 0) are excluded."""
    graded = [point for point in points if point["step"] and point["accuracy"] is not None]
    return max(graded, key=lambda point: point["accuracy"], default=None)
