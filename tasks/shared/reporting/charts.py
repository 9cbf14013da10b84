"""Curves and whiskers as inline SVG: no script, no network; colours come from the page's style sheet.

Every text goes through `escape`: names of sets and metrics are data of others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 14, 34
FAR = 3  # a reference above so many times the largest value is not drawn
# The page's light colours, for an image that stands alone.
IMAGE_STYLE = (
    "text{font:10.5px sans-serif;fill:#5b6575}text.name{font-size:12px;fill:#1c2330}"
    ".grid{stroke:#dfe3ea}.band{opacity:.15}.curve path{fill:none;stroke-width:1.8}"
    ".tone0{--t:#8a93a3}.tone1{--t:#2f6fde}.tone2{--t:#c2410c}.tone3{--t:#7c3aed}.tone4{--t:#0f766e}"
    ".curve path,.whisker line{stroke:var(--t)}.curve circle,.band{fill:var(--t)}.whisker line{stroke-width:2}"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. Lengths: n points."""

    name: str
    xs: Sequence[float]  # (n,)
    ys: Sequence[float]  # (n,) NaN leaves a gap
    low: Sequence[float] = ()  # (n,) or empty: lower end of a band
    high: Sequence[float] = ()  # (n,) or empty
    tone: int = 0  # index of the page's colour


@dataclass(frozen=True, slots=True)
class Whisker:
    """A value with its interval."""

    name: str
    value: float
    low: float
    high: float
    tone: int = 0


def curve(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    references: Mapping[str, float] | None = None,
    percent: bool = False,
    vertical: Sequence[float] = (),
    x_names: Sequence[str] = (),
) -> Markup:
    """A chart of curves with dashed reference lines; `vertical` marks places on the x axis (ends of rounds).

    `x_names` stand in place of the numbers 0, 1, ... on the x axis. A reference far above the curves is told in words:
    as a line it would flatten them. Empty Markup if no curve has a finite point.
    """
    drawing = _drawing(lines, x_label, references or {}, percent, vertical, x_names)
    if not drawing:
        return Markup("")
    legend = [line for line in lines if line.name]
    keys = "".join(f'<span class="key tone{line.tone}">{escape(line.name)}</span>' for line in legend)
    body = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{drawing}</svg>'
    return Markup(f'<figure class="chart"><figcaption>{escape(title)} {keys}</figcaption>{body}</figure>')


def curve_image(title: str, lines: Sequence[Line], x_label: str, percent: bool = False) -> str:
    """The chart as an SVG document of its own, with title, legend and colours, for places without the page's style.

    Empty if no curve has a finite point.
    """
    drawing = _drawing(lines, x_label, {}, percent, ())
    if not drawing:
        return ""
    head = 24 + 16 * len(lines)
    legend = "".join(
        f'<g class="whisker tone{line.tone}"><line x1="{LEFT}" x2="{LEFT + 18}" y1="{row}" y2="{row}"/></g>'
        + _text("name", LEFT + 24, row + 4, line.name, "start")
        for row, line in zip(range(32, 32 + 16 * len(lines), 16), lines, strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" viewBox="0 -{head} {WIDTH} {HEIGHT + head}">'
        f'<style>{IMAGE_STYLE}</style><rect y="-{head}" width="100%" height="100%" fill="#ffffff"/>'
        f'<g transform="translate(0 -{head})">{_text("name", LEFT, 16, title, "start")}{legend}</g>{drawing}</svg>'
    )


def _drawing(
    lines: Sequence[Line],
    x_label: str,
    references: Mapping[str, float],
    percent: bool,
    vertical: Sequence[float],
    x_names: Sequence[str] = (),
) -> str:
    """Axes, marks and curves; empty if no curve has a finite point."""
    points = [(x, y) for line in lines for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
    if not points:
        return ""
    bands = [y for line in lines for y in (*line.low, *line.high) if math.isfinite(y)]
    ys = [*(y for _, y in points), *bands]
    near = {name: value for name, value in references.items() if percent or value <= FAR * max(ys)}
    scale = _Scale([x for x, _ in points], [*ys, *near.values()], percent)
    parts = [scale.axes(x_label, percent, x_names)]
    parts += [
        f'<line class="round" x1="{scale.x(x):.1f}" x2="{scale.x(x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        for x in vertical
    ]
    for name, value in near.items():
        y = scale.y(value)
        parts.append(f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text("reference", WIDTH - RIGHT, y - 3, name, "end"))
    far = [f"{name}: {number(value, percent)}" for name, value in references.items() if name not in near]
    if far:
        parts.append(_text("reference", WIDTH - RIGHT, TOP - 4, f"above: {'; '.join(far)}", "end"))
    return "".join([*parts, *(_band(line, scale) + _path(line, scale, percent) for line in lines)])


def whiskers(title: str, rows: Sequence[Whisker]) -> Markup:
    """Values in per cent with their intervals, one row each, on the scale 0 to the next round value."""
    top = min(1.0, max(0.1, math.ceil(max((row.high for row in rows), default=1.0) * 10) / 10))
    longest = max((len(row.name) for row in rows), default=0)
    left, width, step = min(180, max(64, 12 + 7 * longest)), 440, 26
    height = step * len(rows) + 34
    span = width - left - 64

    def place(value: float) -> float:
        return left + span * value / top

    parts = []
    for tick in range(6):
        value = top * tick / 5
        x = place(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{height - 24}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{value * 100:.0f} %</text>'
        )
    for index, row in enumerate(rows):
        y = 6 + step * (index + 0.5)
        low, high, middle = place(row.low), place(row.high), place(row.value)
        parts.append(
            f'<text class="name" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(row.name)}</text>'
        )
        parts.append(
            f'<g class="whisker tone{row.tone}"><line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
            f'<line x1="{low:.1f}" x2="{low:.1f}" y1="{y - 5}" y2="{y + 5}"/>'
            f'<line x1="{high:.1f}" x2="{high:.1f}" y1="{y - 5}" y2="{y + 5}"/>'
            f'<circle cx="{middle:.1f}" cy="{y}" r="4.5"/></g>'
        )
        parts.append(f'<text class="value" x="{high + 7:.1f}" y="{y + 4:.1f}">{row.value * 100:.1f} %</text>')
    body = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
    return Markup(f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{body}</figure>')


class _Scale:
    """Data to pixels, and the axes."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], percent: bool) -> None:
        self.x_low, self.x_high = min(xs), max(xs)
        self.x_whole = all(float(x).is_integer() for x in xs)  # steps, rounds
        if self.x_low == self.x_high:
            self.x_low, self.x_high = self.x_low - 0.5, self.x_high + 0.5
        low, high = min(ys), max(ys)
        if percent:
            low, high = 0.0, max(high, 0.05)
        elif low >= 0 and low < 0.5 * high:
            low = 0.0
        if low == high:  # a metric that never moved
            low, high = (min(0.0, 2 * low), max(0.0, 2 * high)) if low else (0.0, 1.0)
        self.ticks = ticks(low, high)
        self.y_low, self.y_high = min(low, self.ticks[0]), max(high, self.ticks[-1])

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x_low) / (self.x_high - self.x_low)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.y_low) / (self.y_high - self.y_low)

    def axes(self, x_label: str, percent: bool, x_names: Sequence[str]) -> str:
        parts = []
        for value in self.ticks:
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            label = number(value, percent)
            parts.append(
                f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>'
            )
        values = range(len(x_names)) if x_names else ticks(self.x_low, self.x_high, whole=self.x_whole)
        for value in values:
            if self.x_low <= value <= self.x_high:
                name = x_names[int(value)] if x_names else number(value)
                parts.append(
                    _text(
                        "tick", self.x(value), HEIGHT - 20, name, self._anchor(value) if x_names else "middle"
                    )
                )
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text class="tick" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
        )
        return "".join(parts)

    def _anchor(self, x: float) -> str:
        """Labels at the ends stay inside the chart."""
        return {self.x_low: "start", self.x_high: "end"}.get(x, "middle")


def _text(kind: str, x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


TICKS = 5  # at most


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round values, `whole` ones alone if asked, from at or below `low` to at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / TICKS))
    steps = [size * factor for factor in (1, 2, 2.5, 5, 10)]
    step = (
        next(s for s in steps if span / s <= TICKS and not (whole and s % 1))
        if span > 1 or not whole
        else 1.0
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def number(value: float, percent: bool = False) -> str:
    """A short number: 12k, 0.25, 40 %."""
    if percent:
        return f"{value * 100:.3g} %"
    if abs(value) >= 10_000:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}"


def _path(line: Line, scale: _Scale, percent: bool) -> str:
    commands, pen_down = [], False
    dots = []
    for x, y in zip(line.xs, line.ys, strict=True):
        if not math.isfinite(y):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{scale.x(x):.1f} {scale.y(y):.1f}")
        pen_down = True
        if len(line.xs) <= 80:
            label = escape(f"{line.name}: {number(x)}, {number(y, percent)}")
            dots.append(
                f'<circle cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="2.2"><title>{label}</title></circle>'
            )
    return f'<g class="curve tone{line.tone}"><path d="{"".join(commands)}"/>{"".join(dots)}</g>'


def _band(line: Line, scale: _Scale) -> str:
    if not line.low:
        return ""
    upper = [f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in zip(line.xs, line.high, strict=True)]
    lower = [f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in zip(line.xs, line.low, strict=True)]
    return f'<path class="band tone{line.tone}" d="M{"L".join([*upper, *reversed(lower)])}Z"/>'
