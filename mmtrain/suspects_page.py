"""Spikes as a page: the curve of the loss, and the samples to blame with media, token losses and source rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdata.errors import DataError, RunError
from mmdata.explain_page.page import segments
from mmdata.types import Packed
from mmtrain.samples_page import template
from mmtrain.suspects import SHOWN, Case, Suspect, forget_lines

AROUND = 40
"""Steps of the log before and after a spike that its curve shows."""
WIDTH, HEIGHT = 720, 120
"""Of the curve, in pixels."""


def render(folder: Path, log: Sequence[Mapping[str, Any]], cases: Sequence[Case]) -> bytes:
    """The cases as one self-contained HTML page in UTF-8: no script, no request, pictures as data URIs, all texts
    escaped."""
    shown = [{"case": case, "curve": curve(log, case), "samples": _samples(case)} for case in cases]
    page = template("suspects.html.jinja").render(
        {"title": f"Spikes of {folder.name}", "folder": folder, "cases": shown, "forget": forget_lines(cases)}
    )
    return page.encode("utf-8", "xmlcharrefreplace")


def curve(log: Sequence[Mapping[str, Any]], case: Case) -> dict[str, Any]:
    """The losses around a spike as points of a line in a box of `WIDTH` x `HEIGHT`, the height of what was expected,
    and the place of the spike; None for what is not known."""
    step = case.spike.step
    near = [
        (line["step"], line["loss"])
        for line in log
        if abs(line["step"] - step) <= AROUND and line.get("loss") is not None
    ]
    known = [loss for _, loss in near] + [v for v in (case.spike.expected,) if math.isfinite(v)]
    if not known:
        return {"points": "", "expected": None, "spike": None, "low": None, "high": None}
    low, high = min(known), max(known)
    first, last = min([step, *(n for n, _ in near)]), max([step, *(n for n, _ in near)])

    def x(number: int) -> float:
        return round(8 + (WIDTH - 16) * (number - first) / max(1, last - first), 1)

    def y(loss: float) -> float:
        return round(HEIGHT - 8 - (HEIGHT - 16) * (loss - low) / max(high - low, 1e-9), 1)

    finite = math.isfinite(case.spike.loss)
    return {
        "points": " ".join(f"{x(number)},{y(loss)}" for number, loss in near),
        "expected": y(case.spike.expected) if math.isfinite(case.spike.expected) else None,
        "spike": (x(step), y(case.spike.loss) if finite else 8.0),
        "low": low,
        "high": high,
    }


def _samples(case: Case) -> list[dict[str, Any]]:
    """The worst samples of a step as they are shown, in their order."""
    stream, shown = case.found.stream, case.ranked[:SHOWN]
    found: dict[int, dict[str, Any]] = {}
    first = 0
    for deal in case.found.deals:
        assert deal.pack is not None, deal
        mine = {each.number - first: each for each in shown if 0 <= each.number - first < len(deal.pack.items)}
        first += len(deal.pack.items)
        if not mine:
            continue
        packed = stream.read(deal)
        assert isinstance(packed, Packed), packed
        losses = {number: each.sample.tokens for number, each in mine.items()}
        for (_, each), segment in zip(sorted(mine.items()), segments(stream, deal, packed, losses), strict=True):
            heated(segment)
            found[each.number] = segment | {"meta": _meta(case, each)}
    blamed = {each.number for each in case.suspects}
    return [{"suspect": each, "blamed": each.number in blamed, **found[each.number]} for each in shown]


def heated(segment: dict[str, Any]) -> None:
    """Give each token of a segment its `heat`, 0 to 1: its loss as a share of the greatest in the sample; 1 where it is
    not finite, None where nothing is learned."""
    tokens = [token for run in segment["runs"] if run["slot"] is None for token in run["tokens"]]
    most = max((t["loss"] for t in tokens if t["loss"] is not None and math.isfinite(t["loss"])), default=0.0)
    for token in tokens:
        loss = token["loss"]
        token["heat"] = (
            None if loss is None else round(min(1.0, loss / max(most, 1e-9)), 2) if math.isfinite(loss) else 1.0
        )


def _meta(case: Case, suspect: Suspect) -> list[tuple[str, str]]:
    """What the sample's record says of it: its URL, for example."""
    try:
        dataset = case.found.stream.datasets[suspect.item.dataset]
        meta = dataset.sample(suspect.item.position, media=False).meta
    except (DataError, RunError, OSError):
        return []
    return [(str(name), str(value)) for name, value in meta.items()]
