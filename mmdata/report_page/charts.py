"""Where the bars, ticks and lines of a histogram go: numbers only; the page's template draws them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 360, 168
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 10, 24
"""Margins around the plot, in the units of the viewBox; tick labels are 11 units high."""
LABEL_GAP = 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A tick or line: its place along the axis, its label, and which end of the label it is anchored to."""

    at: float
    label: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    bars: tuple[Bar, ...]
    ticks: tuple[Mark, ...]
    grid: tuple[Mark, ...]
    median: float | None
    summary: str


def scale(top: int, lines: int = 3) -> list[int]:
    """Round numbers from 0 that cover `top` in about `lines` steps.

    >>> scale(87), scale(3), scale(1), scale(2400)
    ([0, 50, 100], [0, 1, 2, 3], [0, 1], [0, 1000, 2000, 3000])
    """
    raw = max(top, 1) / lines
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(1, round(next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999) * power))
    return list(range(0, top + step, step)) if top % step else list(range(0, top + 1, step))


def histogram(
    value: dict[str, Any],
    form: Callable[[float], str],
    *,
    marks: tuple[float, ...],
    name: str,
    least_bins: int = 10,
) -> Chart | None:
    """The drawing of a stats histogram, or None where nothing was counted.

    Bins have equal widths on the page, so a geometric axis reads as a logarithmic one. Empty bins at both
    ends are cut off, down to `least_bins`. `marks` are values worth a label; `form` writes a value for people.
    """
    counts, edges = value["counts"], value["edges"]
    if not value["n"]:
        return None
    first, last = _occupied(counts, value, least_bins)
    bins: list[tuple[str, int]] = [
        (f"{form(edges[at])} to {form(edges[at + 1])}", counts[at]) for at in range(first, last)
    ]
    below, above = value["below"], value["above"]
    if below:
        bins.insert(0, (f"less than {form(edges[0])}", below))
    if above:
        bins.append((f"{form(edges[-1])} and more", above))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    levels = scale(max(count for _, count in bins))
    pitch = (right - LEFT) / len(bins)
    gap = min(2.0, pitch * 0.15)
    tall = bottom - TOP

    def place(number: float) -> float:
        """Horizontal place of a value: linear in the logarithm inside its bin."""
        at = min(max(first, next((k for k in range(first, last) if number < edges[k + 1]), last - 1)), last - 1)
        inside = (math.log(max(number, 1e-9)) - math.log(edges[at])) / (math.log(edges[at + 1]) - math.log(edges[at]))
        return round(LEFT + pitch * (bool(below) + at - first + min(max(inside, 0.0), 1.0)), 1)

    bars = []
    for at, (label, count) in enumerate(bins):
        high = max(tall * count / levels[-1], 1.0) if count else 0.0
        x, y = round(LEFT + at * pitch + gap / 2, 1), round(bottom - high, 1)
        bars.append(Bar(x=x, y=y, width=round(pitch - gap, 1), height=round(high, 1), title=f"{label}: {count:,}"))
    ticks = _spread([Mark(at=place(mark), label=form(mark)) for mark in marks if edges[first] <= mark <= edges[last]])
    quantiles = value["quantiles"]
    middle = quantiles["p50"]
    inside = edges[first] <= middle <= edges[last]
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=right,
        top=TOP,
        bottom=bottom,
        bars=tuple(bars),
        ticks=tuple(ticks),
        grid=tuple(Mark(at=round(bottom - tall * n / levels[-1], 1), label=compact(n)) for n in levels),
        median=place(middle) if inside else None,
        summary=f"Histogram of {name}: {value['n']:,} values from {form(value['min'])} to {form(value['max'])}, "
        f"median {form(middle)}, 90 percent between {form(quantiles['p5'])} and {form(quantiles['p95'])}.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """Two distributions on one axis as shares of each: bars for the first, a line for the second."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    bars: tuple[Bar, ...]
    line: str
    ticks: tuple[Mark, ...]
    grid: tuple[Mark, ...]
    summary: str


def overlay(
    a: dict[str, Any], b: dict[str, Any], form: Callable[[float], str], *, marks: tuple[float, ...], name: str
) -> Overlay | None:
    """Two stats histograms of the same edges over each other, or None where either holds nothing.

    Heights are shares of each build's own values, so that builds of different sizes can be compared.
    """
    if not a["n"] or not b["n"] or a["edges"] != b["edges"]:
        return None
    edges = a["edges"]
    pairs = [_occupied(each["counts"], each, 10) for each in (a, b)]
    first, last = min(low for low, _ in pairs), max(high for _, high in pairs)
    below, above = bool(a["below"] or b["below"]), bool(a["above"] or b["above"])
    labels = [f"{form(edges[at])} to {form(edges[at + 1])}" for at in range(first, last)]
    labels = [*[f"less than {form(edges[0])}"] * below, *labels, *[f"{form(edges[-1])} and more"] * above]
    one, other = (
        [
            count / each["n"]
            for count in (*[each["below"]] * below, *each["counts"][first:last], *[each["above"]] * above)
        ]
        for each in (a, b)
    )
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    levels = scale(math.ceil(100 * max(*one, *other)))
    pitch, tall = (right - LEFT) / len(labels), bottom - TOP
    bars, line = [], []
    for at, (label, share_a, share_b) in enumerate(zip(labels, one, other, strict=True)):
        x = LEFT + at * pitch
        high_a, high_b = (round(tall * 100 * share / levels[-1], 1) for share in (share_a, share_b))
        title = f"{label}: {100 * share_a:.3g}% in A, {100 * share_b:.3g}% in B"
        bars.append(
            Bar(x=round(x + 0.5, 1), y=round(bottom - high_a, 1), width=round(pitch - 1, 1), height=high_a, title=title)
        )
        line.append(f"{x:.1f} {bottom - high_b:.1f}L{x + pitch:.1f} {bottom - high_b:.1f}")

    def place(number: float) -> float:
        at = min(max(first, next((k for k in range(first, last) if number < edges[k + 1]), last - 1)), last - 1)
        inside = (math.log(max(number, 1e-9)) - math.log(edges[at])) / (math.log(edges[at + 1]) - math.log(edges[at]))
        return round(LEFT + pitch * (below + at - first + min(max(inside, 0.0), 1.0)), 1)

    ticks = [Mark(at=place(mark), label=form(mark)) for mark in marks if edges[first] <= mark <= edges[last]]
    medians = [form(each["quantiles"]["p50"]) for each in (a, b)]
    return Overlay(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=right,
        top=TOP,
        bottom=bottom,
        bars=tuple(bars),
        line="M" + "L".join(line),
        ticks=tuple(_spread(ticks)),
        grid=tuple(Mark(at=round(bottom - tall * n / levels[-1], 1), label=f"{n}%") for n in levels),
        summary=f"Histograms of {name}: median {medians[0]} of {a['n']:,} values in A, "
        f"{medians[1]} of {b['n']:,} in B.",
    )


def compact(number: float) -> str:
    """A count for an axis.

    >>> compact(950), compact(1500), compact(2_000_000), compact(3_400_000_000)
    ('950', '1.5k', '2M', '3.4G')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def _occupied(counts: list[int], value: dict[str, Any], least: int) -> tuple[int, int]:
    """The range of bins that hold something, widened evenly to `least` where there is room."""
    held = [at for at, count in enumerate(counts) if count]
    first, last = (held[0], held[-1] + 1) if held else (0, 1)
    if value["below"]:
        first = 0
    if value["above"]:
        last = len(counts)
    while last - first < min(least, len(counts)):
        if first and (last == len(counts) or (last - first) % 2):
            first -= 1
        else:
            last += 1
    return first, last


def _spread(ticks: list[Mark]) -> list[Mark]:
    """Drop labels that would touch the one before; keep those at the margins inside the picture."""
    kept: list[Mark] = []
    for tick in ticks:
        if not kept or tick.at - kept[-1].at >= LABEL_GAP:
            end = tick.at > WIDTH - RIGHT - LABEL_GAP / 2
            kept.append(Mark(at=tick.at, label=tick.label, anchor="end" if end else "middle"))
    return kept
