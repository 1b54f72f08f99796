"""Where the media of a pack go: end to end into one array from the start, which nothing needs to be joined for then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmdata import memory
from mmdata.families._family import Family, MediaRule
from mmdata.types import MediaPlan

Room = np.ndarray
"""An array of a plan's shape, part of that of all media of a pack which are joined under the same key."""


def rooms(media: Sequence[Sequence[MediaPlan]], family: Family | None) -> list[list[Room | None]]:
    """A room for each medium of each sample, in their order. None where a view makes memory of its own, or the arrays
    are filled up to be alike; and without a family."""
    if family is None:
        return [[None] * len(plans) for plans in media]
    wanted: dict[str, list[MediaPlan]] = {}
    for plans in media:
        for plan in plans:
            rule = family.media[plan.kind]
            if rule.join != "pad" and _writes(rule):
                wanted.setdefault(rule.key, []).append(plan)
    parts = {key: iter(_cut(plans, family)) for key, plans in wanted.items()}
    return [
        [next(parts[key]) if (key := family.media[plan.kind].key) in parts else None for plan in plans]
        for plans in media
    ]


def _writes(rule: MediaRule) -> bool:
    return all(getattr(view, "takes_out", False) for view in (rule.view, rule.several) if view is not None)


def _cut(plans: Sequence[MediaPlan], family: Family) -> list[Room | None]:
    """The rooms of media that are joined under one key: none where their arrays cannot be one."""
    rules = [family.media[plan.kind] for plan in plans]
    stacked = rules[0].join == "stack"
    tails = {plan.shape if stacked else plan.shape[1:] for plan in plans}
    kinds = {(rule.join == "stack", getattr(rule.view, "dtype", "float32")) for rule in rules}
    if len(tails) != 1 or len(kinds) != 1:
        return [None] * len(plans)
    lengths = [1 if stacked else plan.shape[0] for plan in plans]
    whole = memory.empty((sum(lengths), *tails.pop()), kinds.pop()[1])
    ends = np.cumsum(lengths)
    return [
        whole[end - length : end].reshape(plan.shape)
        for plan, length, end in zip(plans, lengths, ends.tolist(), strict=True)
    ]
