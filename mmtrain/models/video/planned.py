"""What the stream plans for a model that looks across frames: how many tokens are left of a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdata.families._family import MediaRule
from mmdata.types import Media, MediaKind, MediaPlan
from mmdata.views.around import Around
from mmtrain.models import connectors
from mmtrain.models.video import lengths_of, read

if TYPE_CHECKING:
    pass

COUNTS, TIMES = "frame_counts", "frame_ms"
"""Batch arrays: int64 [videos] the frames of each, int64 [frames] the milliseconds at which each is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filmed(Around):
    """`view`, whose frames go through `video` and then `connector` (specs of the model). `merge` is how many patches by
    how many become a token of the view. With `marks` a picture is one marker, whatever it shows."""

    video: Any
    connector: Any
    merge: int
    marks: bool = False

    def plan(self, facts: Media, *, rng: np.random.Generator | None = None) -> MediaPlan:
        """The view's plan, with other tokens. Raises DataError as the view does."""
        plan = self.planned(facts, rng)
        frames = frames_of(plan)
        left = lengths_of(self.video, frames, plan.tokens * self.merge**2 // frames)
        each = [1 if self.marks else connectors.tokens_of(self.connector, self.merge, length) for length in left]
        return replace(plan, tokens=sum(each))

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        told = {"video": self.video.model_dump(), "connector": self.connector.model_dump(), "merge": self.merge}
        return {"view": "filmed", "of": self.view.describe(), **told, "marks": self.marks}


def frames_of(plan: MediaPlan) -> int:
    """The frames of a video; an image is one.

    >>> frames_of(MediaPlan(kind="image", tokens=4, shape=(4, 768), ops=()))
    1
    """
    return plan.grid[0] if plan.kind == "video" and plan.grid is not None else 1


def frame_times(plan: MediaPlan) -> dict[str, np.ndarray]:
    """The batch arrays of a plan: seconds where they are known, else a second for each frame."""
    count = frames_of(plan)
    times = plan.times if len(plan.times) == count else tuple(range(count))
    milliseconds = [round(1000 * (each - times[0])) for each in times]
    return {COUNTS: np.array([count], np.int64), TIMES: np.array(milliseconds, np.int64)}


def filmed(
    config: Any,
    connector: Any,
    rules: Mapping[MediaKind, MediaRule],
    whole: Mapping[MediaKind, MediaRule],
    *,
    marks: bool,
) -> dict[MediaKind, MediaRule]:
    """`rules` of a native model of this config with `video`: pictures as `whole` has them become so many tokens, and
    tell when their frames are shown."""
    found, told = dict(rules), read(config.video)
    fixed = whole["image"].key != whole["video"].key  # images apart from frames: each is a video of one, untold
    pictured: tuple[MediaKind, ...] = ("image", "video")
    for kind in pictured:
        rule = whole[kind]
        view = Filmed(view=rule.view, video=told, connector=connector, merge=config.merge, marks=marks)
        timed = rule.companions if fixed and kind == "image" else _both(rule)
        found[kind] = replace(rule, view=view, companions=timed)
    return found


def _both(rule: MediaRule) -> Any:
    return lambda plan: {**rule.companions(plan), **frame_times(plan)}
