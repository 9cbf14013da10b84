"""`rl.keep = "best"`: the weights of the best point of the curve, kept until the round publishes them.

Weights are written before their evaluation has ended, since the trainer changes them meanwhile, and thrown away if they
are not the best. What a resumed round may evaluate again is kept apart from what it may not: the best of the points up
to the last saved state stays whatever later ones say.
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
        """What was written of steps after `step`, which come again, is removed."""
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

    def sort_out(self, points: Sequence[Point], saved: int, running: int | None = None) -> None:
        """Remove what can be the best no more; `saved`: the step a killed round would go on from.

        `running`: the step that is evaluated just now.
        """
        until_saved = best_of([point for point in points if point["step"] <= saved])
        wanted = {point["step"] for point in (until_saved, best_of(points)) if point} | {running}
        for path in self._directory.glob("step-*"):
            if _step_of(path) not in wanted:
                shutil.rmtree(path)

    def path_of(self, point: Point) -> Path:
        """Where the weights of a point lie."""
        return self._path(point["step"])

    def _path(self, step: int) -> Path:
        return self._directory / f"step-{step:06d}"


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def best_of(points: Sequence[Point]) -> Point | None:
    """The first of those with the highest accuracy; the weights that a run starts from (step 0) are no candidate."""
    graded = [point for point in points if point["step"] and point["accuracy"] is not None]
    return max(graded, key=lambda point: point["accuracy"], default=None)
