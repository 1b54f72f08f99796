"""A view whose model makes another number of tokens of each picture than patches say: a resampler's, or merged ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmdata.errors import SpecError
from mmdata.types import Media, MediaPlan
from mmdata.views.around import Around

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled(Around):
    """`view`, but each picture (of a video, each frame) becomes `tokens` tokens: the queries of a resampler, the cells
    of a pooled grid. With `at_most`, pictures of fewer tokens keep theirs: what is merged by likeness down to a number.

    `view` makes a token of every patch, so that all else of its plan stays as it is.

    >>> from mmdata.views.fixed import Fixed
    >>> Resampled(view=Fixed(size=56), tokens=9).plan(Media(kind="image", height=100, width=301)).tokens
    9
    """

    tokens: int
    at_most: bool = False

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise SpecError(f"view resampled: tokens {self.tokens}")

    def plan(self, facts: Media, *, rng: np.random.Generator | None = None) -> MediaPlan:
        """The view's plan, with other tokens. Raises DataError as the view does."""
        plan = self.planned(facts, rng)
        pictures = plan.grid[0] if plan.kind == "video" and plan.grid is not None else 1
        each = min(self.tokens, plan.tokens // pictures) if self.at_most else self.tokens
        return replace(plan, tokens=pictures * each)

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "resampled", "of": self.view.describe(), "tokens": self.tokens, "at_most": self.at_most}
