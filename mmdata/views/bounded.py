"""A view for a model whose table of positions ends: pictures of more rows or columns are left out, not met half-way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmdata.errors import DataError
from mmdata.types import Media, MediaPlan

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """`view`, but without pictures of more than `most` rows or columns of patches.

    >>> from mmdata.views.qwen import SmartResize
    >>> Bounded(view=SmartResize(), most=64).plan(Media(kind="image", height=280, width=560)).grid
    (1, 20, 40)
    """

    view: Any
    most: int

    @property
    def draws(self) -> bool:
        return bool(getattr(self.view, "draws", False))

    def __getattr__(self, name: str) -> Any:
        """What it does not say itself, the view does."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(object.__getattribute__(self, "view"), name)

    def plan(self, facts: Media, *, rng: np.random.Generator | None = None) -> MediaPlan:
        """The view's plan. Raises DataError("aspect_extreme") for a picture that is too long, and as the view does."""
        plan: MediaPlan = self.view.plan(facts, rng=rng) if self.draws else self.view.plan(facts)
        rows, columns = (0, 0) if plan.grid is None else plan.grid[1:]
        if max(rows, columns) > self.most:
            raise DataError(
                "aspect_extreme", f"{rows} x {columns} patches; the model has positions for {self.most} (max_grid)"
            )
        return plan

    def realize(self, source: Any, plan: MediaPlan, **into: Any) -> torch.Tensor:
        """As the view does."""
        made: torch.Tensor = self.view.realize(source, plan, **into)
        return made

    def smaller(self) -> Bounded | None:
        """The view made smaller; None where it has no smaller one."""
        lowered = self.view.smaller() if hasattr(self.view, "smaller") else None
        return None if lowered is None else replace(self, view=lowered)

    def describe(self) -> dict[str, Any]:
        """The view's parameters: what is made of pictures is the same."""
        described: dict[str, Any] = self.view.describe()
        return described
