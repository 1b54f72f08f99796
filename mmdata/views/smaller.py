"""Smaller plans of a medium whose sample is too long: fewer tiles, fewer frames, less resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mmdata.errors import DataError, SpecError
from mmdata.types import Media, MediaPlan, Resize

STEPS = 12
"""A view is made smaller so many times at most; each halves pixels or frames, or takes a tile away."""
LEAST = 16
"""Pixels that the shorter side of a picture keeps."""


def smaller_plans(
    view: Any, facts: Media, draw: Callable[[], np.random.Generator] | None = None
) -> Iterator[MediaPlan]:
    """Plans of a medium, each meant to be smaller than the one before; none where nothing can be made smaller.

    A view with a method `smaller` (itself with its limit lowered, or None) knows best. Other views of pictures plan a
    picture that is resized first (`MediaPlan.before`), as if it had been smaller from the start: a model that computes
    tiles from `image_sizes` then agrees. Sound is left as it is. `draw` makes the medium's generator anew for each
    plan of a view that leaves something to chance.
    """
    if hasattr(view, "smaller"):
        lowered = view
        for _ in range(STEPS):
            try:
                lowered = lowered.smaller()
                if lowered is None:
                    return
                yield _plan(lowered, facts, draw)
            except (DataError, SpecError):  # less than the medium or the view's other limits allow
                return
    elif facts.kind == "image" and facts.height and facts.width:
        for step in range(1, STEPS + 1):
            height, width = (max(1, round(side * math.sqrt(0.5**step))) for side in (facts.height, facts.width))
            if min(height, width) < min(LEAST, facts.height, facts.width):
                return
            try:
                plan = _plan(view, replace(facts, height=height, width=width), draw)
            except DataError:
                return
            yield replace(plan, before=(Resize(height, width, getattr(view, "filter", "bicubic")),))


def _plan(view: Any, facts: Media, draw: Callable[[], np.random.Generator] | None) -> MediaPlan:
    chance: dict[str, Any] = {"rng": draw()} if draw is not None and getattr(view, "draws", False) else {}
    plan: MediaPlan = view.plan(facts, **chance)
    return plan
