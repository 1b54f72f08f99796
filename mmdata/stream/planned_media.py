"""Plans of samples' media by a family, each distinct set of facts planned once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmdata.errors import DataError
from mmdata.families._family import Family, View, media_length, views
from mmdata.stream.cost import mel_frames, patches
from mmdata.stream.materialized import check_readable
from mmdata.stream.spec import StreamSpec
from mmdata.types import Media, MediaPlan
from mmdata.views.smaller import smaller_plans

REMEMBERED = 1 << 16
"""Distinct facts whose plans are kept."""
Draw = Callable[[int], np.random.Generator]
"""The generator of the medium of this number (in the order of places)."""


@dataclass(frozen=True, slots=True)
class Planned:
    """The media of one sample: plans in the order of their places, and what they come to."""

    plans: tuple[MediaPlan, ...]
    tokens: int
    """In the sample's ids, markers included."""
    patches: int
    mel_frames: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.tokens, self.patches, self.mel_frames


class MediaPlanner:
    """Plans media of a family from facts. Plans of pictures and sound that leave nothing to chance are remembered."""

    def __init__(self, family: Family, spec: StreamSpec) -> None:
        self.family = family
        self.spec = spec
        self.draws = any(
            getattr(view, "draws", False) for rule in family.media.values() for view in (rule.view, rule.several)
        )
        """Whether any view leaves something to chance, so that a sample's key is needed."""
        self._known: dict[tuple[Any, ...], Planned | DataError] = {}
        self._lock = threading.Lock()

    def plan(self, media: Sequence[Media], draw: Draw | None = None) -> Planned:
        """The plans of a sample's media, in the order of their places. Raises DataError as views do, `media_kind`, and
        `materialized_other` for media that cannot be read as planned."""
        if len(media) == 1 and (rule := self.family.media.get(media[0].kind)):
            return self._medium(media[0], rule.view, 0, draw)
        parts = [
            self._medium(medium, view, at, draw)
            for at, (medium, view) in enumerate(zip(media, self.views(media), strict=True))
        ]
        return together(parts)

    def views(self, media: Sequence[Media]) -> tuple[View, ...]:
        """The view of each medium of a sample. Raises DataError `media_kind`."""
        return views(self.family, media)

    def smaller(self, media: Sequence[Media], at: int, draw: Draw | None = None) -> list[Planned]:
        """The plans that medium `at` of a sample may have, the wanted one first and then ever smaller ones. Arrays
        that are stacked keep their shape."""
        medium, view = media[at], views(self.family, media)[at]
        found = [self._medium(medium, view, at, draw)]
        fixed = self.family.media[medium.kind].join == "stack"
        for plan in smaller_plans(view, medium, None if draw is None else lambda: draw(at)):
            each = self.of(view, plan)
            if each.tokens < found[-1].tokens and not (fixed and plan.shape != found[0].plans[0].shape):
                found.append(each)
        return found

    def of(self, view: View, plan: MediaPlan) -> Planned:
        """One medium by one plan."""
        return Planned((plan,), media_length(self.family, plan), patches(view, plan), mel_frames(plan))

    def _medium(self, medium: Media, view: View, at: int, draw: Draw | None) -> Planned:
        if draw is not None and getattr(view, "draws", False):
            chance: Any = view
            return self._checked(medium, view, chance.plan(medium, rng=draw(at)))
        key = _key(medium, view)
        if key is None:
            return self._checked(medium, view, view.plan(medium))
        found = self._known.get(key)
        if found is None:
            try:
                found = self.of(view, view.plan(medium))
            except DataError as error:
                found = error
            with self._lock:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[key] = found
        if isinstance(found, DataError):
            raise DataError(found.reason, found.detail)
        return found

    def _checked(self, medium: Media, view: View, plan: MediaPlan) -> Planned:
        check_readable([medium], [view], [plan], self.spec)
        return self.of(view, plan)


def together(parts: Sequence[Planned]) -> Planned:
    """Several media as one."""
    return Planned(
        tuple(plan for part in parts for plan in part.plans),
        sum(part.tokens for part in parts),
        sum(part.patches for part in parts),
        sum(part.mel_frames for part in parts),
    )


def _key(medium: Media, view: View) -> tuple[Any, ...] | None:
    """All that the plan of a medium may hang on, or None where that is more than a few numbers: videos, and media of
    which something is stored."""
    if type(medium) is not Media or medium.kind == "video" or medium.made or medium.marks or medium.place is None:
        return None
    return (
        id(view),
        medium.kind,
        medium.height,
        medium.width,
        medium.mode,
        medium.format,
        medium.frames,
        medium.seconds,
        medium.sample_rate,
        medium.channels,
        medium.samples,
    )
