"""Curves and whiskers as inline SVG: no script, no network; colours come from the page's style sheet.

Every text goes through `escape`, because names of sets and metrics come from others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 14, 34
TICKS = 5  # at most
MOST_DOTS = 80  # a longer curve has no dots
FAR = 3  # a reference above this many times the largest value is named, not drawn
# the page's light colours, for an image without the page
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


def or_gap(value: float | None) -> float:
    """A value of a curve; NaN, which leaves a gap, if there is none."""
    return math.nan if value is None else float(value)


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

    `x_names` replace the numbers 0, 1, ... on the x axis. A reference far above the curves is given in words, because
    its line would flatten them. Empty Markup if no curve has a finite point.
    """
    drawing = _drawing(lines, x_label, references or {}, percent, vertical, x_names)
    if not drawing:
        return Markup("")
    legend = [line for line in lines if line.name]
    keys = "".join(f'<span class="key tone{line.tone}">{escape(line.name)}</span>' for line in legend)
    return figure(title, drawing, WIDTH, HEIGHT, f" {keys}")


def figure(title: str, drawing: str, width: int, height: int, keys: str = "") -> Markup:
    """A drawing as a figure of the page, with its title and the keys of its lines."""
    svg = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{drawing}</svg>'
    return Markup(f'<figure class="chart"><figcaption>{escape(title)}{keys}</figcaption>{svg}</figure>')


def curve_image(title: str, lines: Sequence[Line], x_label: str, percent: bool = False) -> str:
    """The chart as a separate SVG document, with title, legend and colours; empty if no curve has a finite point."""
    drawing = _drawing(lines, x_label, {}, percent)
    if not drawing:
        return ""
    head = 24 + 16 * len(lines)
    legend = "".join(
        f'<g class="whisker tone{line.tone}"><line x1="{LEFT}" x2="{LEFT + 18}" y1="{row}" y2="{row}"/></g>'
        + text("name", LEFT + 24, row + 4, line.name, "start")
        for row, line in zip(range(32, 32 + 16 * len(lines), 16), lines, strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" viewBox="0 -{head} {WIDTH} {HEIGHT + head}">'
        f'<style>{IMAGE_STYLE}</style><rect y="-{head}" width="100%" height="100%" fill="#ffffff"/>'
        f'<g transform="translate(0 -{head})">{text("name", LEFT, 16, title, "start")}{legend}</g>{drawing}</svg>'
    )


def _drawing(
    lines: Sequence[Line],
    x_label: str,
    references: Mapping[str, float],
    percent: bool,
    vertical: Sequence[float] = (),
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
    parts += [_line("round", (scale.x(x), TOP), (scale.x(x), HEIGHT - BOTTOM)) for x in vertical]
    for name, value in near.items():
        y = scale.y(value)
        parts.append(_line("reference", (LEFT, y), (WIDTH - RIGHT, y)))
        parts.append(text("reference", WIDTH - RIGHT, y - 3, name, "end"))
    far = [f"{name}: {number(value, percent)}" for name, value in references.items() if name not in near]
    if far:
        parts.append(text("reference", WIDTH - RIGHT, TOP - 4, f"above: {'; '.join(far)}", "end"))
    return "".join([*parts, *(_band(line, scale) + _path(line, scale, percent) for line in lines)])


def whiskers(title: str, rows: Sequence[Whisker]) -> Markup:
    """Percentages with their intervals, one row each, on a scale from 0 to the next round value."""
    top = min(1.0, max(0.1, math.ceil(max((row.high for row in rows), default=1.0) * 10) / 10))
    longest = max((len(row.name) for row in rows), default=0)
    left, step = min(180, max(64, 12 + 7 * longest)), 26
    height = step * len(rows) + 34

    def x_of(value: float) -> float:
        return left + (WIDTH - left - 64) * value / top

    parts = []
    for tick in range(6):
        value = top * tick / 5
        parts.append(_line("grid", (x_of(value), 6), (x_of(value), height - 24)))
        parts.append(text("tick", x_of(value), height - 8, f"{value * 100:.0f} %"))
    for index, row in enumerate(rows):
        y = 6 + step * (index + 0.5)
        low, high, middle = x_of(row.low), x_of(row.high), x_of(row.value)
        parts.append(text("name", left - 8, y + 4, row.name, "end"))
        strokes = [((low, y), (high, y)), *(((x, y - 5), (x, y + 5)) for x in (low, high))]
        drawn = "".join(_line("", start, end) for start, end in strokes)
        dot = f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="4.5"/>'
        parts.append(f'<g class="whisker tone{row.tone}">{drawn}{dot}</g>')
        parts.append(text("value", high + 7, y + 4, f"{row.value * 100:.1f} %", "start"))
    return figure(title, "".join(parts), WIDTH, height)


class _Scale:
    """Data to pixels, and the axes."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], percent: bool) -> None:
        self.x_low, self.x_high = min(xs), max(xs)
        self.x_whole = all(float(x).is_integer() for x in xs)  # of steps and rounds
        if self.x_low == self.x_high:
            self.x_low, self.x_high = self.x_low - 0.5, self.x_high + 0.5
        low, high = min(ys), max(ys)
        if percent:
            low, high = 0.0, max(high, 0.05)
        elif low >= 0 and low < 0.5 * high:
            low = 0.0
        if low == high:  # a constant metric
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
            parts.append(_line("grid", (LEFT, y), (WIDTH - RIGHT, y)))
            parts.append(text("tick", LEFT - 6, y + 3.5, number(value, percent), "end"))
        # names at the ends stay inside the chart
        anchors = {self.x_low: "start", self.x_high: "end"} if x_names else {}
        values = range(len(x_names)) if x_names else ticks(self.x_low, self.x_high, whole=self.x_whole)
        for value in values:
            if self.x_low <= value <= self.x_high:
                name = x_names[int(value)] if x_names else number(value)
                parts.append(text("tick", self.x(value), HEIGHT - 20, name, anchors.get(value, "middle")))
        parts.append(text("tick", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label))
        return "".join(parts)


def text(kind: str, x: float, y: float, words: str, anchor: str = "middle") -> str:
    """A text of an SVG drawing; `kind` is its class in the style sheet."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round values, integers if `whole`, from at or below `low` to at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / TICKS))
    steps = [size * factor for factor in (1, 2, 2.5, 5, 10)]
    step = (
        1.0 if whole and span <= 1 else next(s for s in steps if span / s <= TICKS and not (whole and s % 1))
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def number(value: float, percent: bool = False) -> str:
    """A short number: 12k, 0.25, 40 %."""
    if percent:
        return f"{value * 100:.3g} %"
    return f"{value / 1000:.4g}k" if abs(value) >= 10_000 else f"{value:.4g}"


def _path(line: Line, scale: _Scale, percent: bool) -> str:
    commands, dots, pen_down = [], [], False
    for x, y in zip(line.xs, line.ys, strict=True):
        if math.isfinite(y):
            commands.append(f"{'L' if pen_down else 'M'}{scale.x(x):.1f} {scale.y(y):.1f}")
            label = escape(f"{line.name}: {number(x)}, {number(y, percent)}")
            place = f'cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}"'
            dots.append(f'<circle {place} r="2.2"><title>{label}</title></circle>')
        pen_down = math.isfinite(y)
    shown = "".join(dots) if len(line.xs) <= MOST_DOTS else ""
    return f'<g class="curve tone{line.tone}"><path d="{"".join(commands)}"/>{shown}</g>'


def _band(line: Line, scale: _Scale) -> str:
    if not line.low:
        return ""
    upper, lower = list(zip(line.xs, line.high, strict=True)), list(zip(line.xs, line.low, strict=True))
    outline = "L".join(f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in [*upper, *reversed(lower)])
    return f'<path class="band tone{line.tone}" d="M{outline}Z"/>'
