"""A funnel as inline SVG: for each step one bar for what it leaves, and beside it what it removes."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tasks.shared.reporting.charts import WIDTH, figure, text

ROW, BAR = 24, 14
LEFT, RIGHT = 104, 100


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """A step and its two counts."""

    name: str
    left: int
    taken: int


def funnel(title: str, steps: Sequence[FunnelStep]) -> Markup:
    """The chart; all bars have the scale of the input to the first step."""
    most = max((step.left + step.taken for step in steps), default=0) or 1
    scale = (WIDTH - LEFT - RIGHT) / most
    parts = []
    for number, step in enumerate(steps):
        top = 6 + ROW * number
        middle = top + BAR - 3
        left, taken = scale * step.left, scale * step.taken
        parts.append(text("name", LEFT - 8, middle, step.name, "end"))
        for tone, start, width in ((1, LEFT, left), (2, LEFT + left, taken)):
            place = f'x="{start:.1f}" y="{top}" width="{width:.1f}" height="{BAR}"'
            parts.append(f'<g class="tone{tone}"><rect class="part" {place}/></g>')
        count = f"{step.left:,}" + (f"  \u2212{step.taken:,}" if step.taken else "")
        parts.append(text("value", LEFT + left + taken + 6, middle, count, "start"))
    return figure(title, "".join(parts), WIDTH, 12 + ROW * len(steps))
