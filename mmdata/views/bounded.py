"""A view for a model whose table of positions ends: pictures of more rows or columns are left out, not met half-way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdata.errors import DataError
from mmdata.types import Media, MediaPlan
from mmdata.views.around import Around

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded(Around):
    """`view`, but without pictures of more than `most` rows or columns of patches.

    >>> from mmdata.views.qwen import SmartResize
    >>> Bounded(view=SmartResize(), most=64).plan(Media(kind="image", height=280, width=560)).grid
    (1, 20, 40)
    """

    most: int

    def plan(self, facts: Media, *, rng: np.random.Generator | None = None) -> MediaPlan:
        """The view's plan. Raises DataError("aspect_extreme") for a picture that is too long, and as the view does."""
        plan = self.planned(facts, rng)
        rows, columns = (0, 0) if plan.grid is None else plan.grid[1:]
        if max(rows, columns) > self.most:
            raise DataError(
                "aspect_extreme", f"{rows} x {columns} patches; the model has positions for {self.most} (max_grid)"
            )
        return plan

    def describe(self) -> dict[str, Any]:
        """The view's parameters: what is made of pictures is the same."""
        described: dict[str, Any] = self.view.describe()
        return described
