"""The rule by which a family numbers its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmdata.families._family import Family, Segment
from mmdata.families._qwen import seconds_per_patch
from mmdata.types import MediaPlan, Slot
from mmdata.views.mrope import Vision, mrope_positions

RATES = {"qwen2_vl": None, "qwen2_5_vl": 2.0, "qwen2_5_omni": 25.0, "qwen3_vl": None}
"""Positions per second of a video; as published; None for families whose time counts patches."""


def segment_positions(family: Family, segment: Segment, plans: Sequence[MediaPlan]) -> np.ndarray:
    """int64 [L] of one segment; [4, L] for M-RoPE families: a plain row first, by which attention tells segments
    apart, then time, height and width."""
    plain = np.arange(family.first_position, family.first_position + len(segment.ids), dtype=np.int64)
    if family.positions == "plain":
        return plain
    media = [
        _vision(family, segment, slot, plan)
        for slot, plan in zip(segment.slots, plans, strict=True)
        if slot.kind != "audio"  # heard tokens are numbered like text
    ]
    rows = mrope_positions(len(segment.ids), media, merge=family.merge, variant=family.mrope)
    return np.concatenate([plain[None], rows])


def _vision(family: Family, segment: Segment, slot: Slot, plan: MediaPlan) -> Vision:
    assert plan.grid is not None, plan
    rate = (family.positions_per_second or RATES[family.positions]) if slot.kind == "video" else None
    seconds = 1.0 if rate is None else seconds_per_patch(plan, -(-len(plan.frames) // plan.grid[0]))
    placeholders = segment.ids[slot.start : slot.start + slot.length] == family.placeholder_id(family.media[slot.kind])
    first = np.flatnonzero(placeholders & ~np.concatenate([[False], placeholders[:-1]])) + slot.start
    return Vision(tuple(first.tolist()), plan.grid, seconds, 1.0 if rate is None else rate)
