"""Curves as SVG: lines over one axis, linear or logarithmic, each named where it ends; no script, no font but the
reader's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#2f6690", "#b9770e", "#2e7d5b", "#b5433a", "#7a64b0")
WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 34, 44
"""Margins in pixels; names of lines stand in the right one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points (x, y) under a name; `computed` ones are drawn dashed, those that were executed or measured have dots."""

    name: str
    points: tuple[tuple[float, float], ...]
    computed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Some lines over one axis."""

    name: str
    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    log_x: bool = True
    log_y: bool = True


def draw(chart: Chart) -> str:
    """The chart as an SVG of its own. Raises ValueError for a chart without points, or with one that cannot stand on a
    logarithmic axis."""
    xs = [x for line in chart.lines for x, _ in line.points]
    ys = [y for line in chart.lines for _, y in line.points]
    if not xs:
        raise ValueError(f"{chart.name}: no points")
    across = _Axis.over(xs, log=chart.log_x, low=LEFT, high=WIDTH - RIGHT)
    up = _Axis.over(ys, log=chart.log_y, low=HEIGHT - BOTTOM, high=TOP)
    pieces = [_text(LEFT, 18, chart.title, weight="600")]
    for value in up.ticks:
        at = up.place(value)
        pieces.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        pieces.append(_text(LEFT - 6, at + 4, short(value), anchor="end"))
    below = HEIGHT - BOTTOM + 16
    pieces += [_text(across.place(value), below, short(value), anchor="middle") for value in across.ticks]
    pieces.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, chart.x, anchor="middle"))
    pieces.append(_text(LEFT, TOP - 4, chart.y))
    ends = [up.place(max(line.points)[1]) + 4 for line in chart.lines]
    names = _apart(ends)
    for number, line in enumerate(chart.lines):
        colour, points = COLOURS[number % len(COLOURS)], sorted(line.points)
        places = [(across.place(x), up.place(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dashes = ' stroke-dasharray="5 4"' if line.computed else ""
        pieces.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        if not line.computed:
            pieces += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        pieces.append(_text(WIDTH - RIGHT + 8, names[number], line.name, fill=colour))
    style = (
        "<style>text{fill:#1d2125;font:12px system-ui,sans-serif}.grid{stroke:#d9dad6}"
        "@media (prefers-color-scheme:dark){text{fill:#e6e8ea}.grid{stroke:#3a4047}}</style>"
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img"><title>{escape(chart.title)}</title>'
    )
    return "\n".join([head, style, *pieces, "</svg>", ""])


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to pixels."""

    first: float
    last: float
    log: bool
    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Sequence[float], *, log: bool, low: float, high: float) -> _Axis:
        least, most = min(values), max(values)
        if log:
            if least <= 0:
                raise ValueError(f"{least} on a logarithmic axis")
            decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
            if len(decades) == 1:
                decades = range(decades[0], decades[0] + 2)
            step = max(1, len(decades) // 6)
            ticks = tuple(10.0**n for n in decades[::step])
            return cls(math.log10(10.0 ** decades[0]), math.log10(10.0 ** decades[-1]), True, low, high, ticks)
        width = (most - least) or abs(most) or 1.0
        unit = 10.0 ** math.floor(math.log10(width / 4))
        unit = next(unit * n for n in (1, 2, 5, 10) if width / (unit * n) <= 5)
        first, last = math.floor(least / unit) * unit, math.ceil(most / unit) * unit
        last = last if last > first else first + unit
        return cls(
            first, last, False, low, high, tuple(first + n * unit for n in range(round((last - first) / unit) + 1))
        )

    def place(self, value: float) -> float:
        at = math.log10(value) if self.log else value
        return self.low + (self.high - self.low) * (at - self.first) / (self.last - self.first)


def _apart(heights: Sequence[float], least: float = 14.0) -> list[float]:
    """Heights moved so that names do not lie on each other: none less than `least` below the one above it, and none
    below the chart.

    >>> _apart([50.0, 20.0, 51.0])
    [50.0, 20.0, 64.0]
    """
    placed = [0.0] * len(heights)
    at = -math.inf
    for number in sorted(range(len(heights)), key=lambda number: heights[number]):
        placed[number] = at = max(heights[number], at + least)
    over = max(0.0, at - (HEIGHT - BOTTOM + 4))
    return [height - over for height in placed]


def short(value: float) -> str:
    """A number as an axis has room for it.

    >>> short(4_096_000), short(0.25), short(0.0), short(2e12)
    ('4.1 M', '0.25', '0', '2 T')
    """
    for size, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.2g} {name}" if value / size < 10 else f"{value / size:.3g} {name}"
    return f"{value:.3g}"


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "", weight: str = "") -> str:
    style = "".join([f"fill:{fill};" if fill else "", f"font-weight:{weight};" if weight else ""])
    styled = f' style="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{styled}>{escape(text)}</text>'
