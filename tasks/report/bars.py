"""A funnel as inline SVG: one bar a step for what is left, and beside it what the step took out."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, ROW, BAR = 440, 24, 14
LEFT, RIGHT = 104, 100


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """A step and its two counts."""

    name: str
    left: int
    taken: int


def funnel(title: str, steps: Sequence[FunnelStep]) -> Markup:
    """The chart; every bar is on the scale of what came into the first step."""
    most = max((step.left + step.taken for step in steps), default=0) or 1
    scale = (WIDTH - LEFT - RIGHT) / most
    parts = []
    for number, step in enumerate(steps):
        top = 6 + ROW * number
        middle = top + BAR - 3
        left, taken = scale * step.left, scale * step.taken
        parts.append(
            f'<text class="name" x="{LEFT - 8}" y="{middle}" text-anchor="end">{escape(step.name)}</text>'
        )
        for tone, start, width in ((1, LEFT, left), (2, LEFT + left, taken)):
            parts.append(
                f'<g class="tone{tone}"><rect class="part" x="{start:.1f}" y="{top}" width="{width:.1f}" '
                f'height="{BAR}"/></g>'
            )
        count = f"{step.left:,}" + (f"  \u2212{step.taken:,}" if step.taken else "")
        end = LEFT + left + taken + 6
        parts.append(f'<text class="value" x="{end:.1f}" y="{middle}">{count}</text>')
    height = 12 + ROW * len(steps)
    body = (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
    return Markup(f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{body}</figure>')
