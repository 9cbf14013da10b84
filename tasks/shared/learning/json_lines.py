"""Metrics files across a kill: JSON lines, one a step, without those of steps that run again."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class JsonLines:
    """A metrics file with one line a step; opening it cuts off lines of steps after `last_step`. For one process."""

    def __init__(self, path: Path, last_step: int) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        kept = [line for line in lines if _step(line) <= last_step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept))
        os.replace(partial, path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a step's line."""
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All lines."""
        return [json.loads(line) for line in self._path.read_text().splitlines()]


def _step(line: str) -> float:
    """The step of a line; infinite for one that a kill cut short."""
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return math.inf
