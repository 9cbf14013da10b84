"""Published values of accuracy and behaviour: `data/papers.toml`, read into one record."""

from dataclasses import dataclass
from typing import Any

from data.tables import read_tables

Values = dict[str, dict[str, float]]  # set or metric -> what it is a value of -> value


@dataclass(frozen=True, slots=True)
class Papers:
    """What ReTool and ToRL report."""

    accuracy: Values  # by problem set
    behaviour: Values  # by metric
    growth: dict[str, float]  # by metric: the value at the end over that at the start
    words: dict[str, str]  # by metric: what is stated without a number
    # by recipe of this project and mark (P: paper, R: released code): values by key
    recipes: dict[str, dict[str, dict[str, Any]]]

    def reported(self, metric: str) -> str:
        """All reported values of a metric of behaviour, as one text."""
        numbers = [
            f"{name} {value:.0%}" if value < 1 else f"{name} {value:,.0f}"
            for name, value in self.behaviour.get(metric, {}).items()
        ]
        return "; ".join([*numbers, *([self.words[metric]] if metric in self.words else [])])

    def lines(self, metric: str, start: float | None) -> dict[str, float]:
        """Reference lines for a curve of the metric that begins at `start`."""
        lines = dict(self.behaviour.get(metric, {}))
        if start and metric in self.growth:
            lines[f"ReTool, {self.growth[metric]:g} times the start"] = self.growth[metric] * start
        return lines


def load_papers() -> Papers:
    """The published values."""
    return Papers(**read_tables("papers.toml"))
