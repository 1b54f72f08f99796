"""The rule by which a family numbers its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmdata.families._family import Family, Segment
from mmdata.types import MediaPlan


def segment_positions(family: Family, segment: Segment, plans: Sequence[MediaPlan]) -> np.ndarray:
    """int64 [L] of one segment; [4, L] for M-RoPE families: a plain row first, then time, height and width."""
    plain = np.arange(family.first_position, family.first_position + len(segment.ids), dtype=np.int64)
    if family.positions == "plain":
        return plain
    raise NotImplementedError(family.positions)
