"""What views around another view share: all that they do not say themselves, that one does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from mmdata.types import Media, MediaPlan

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """`view`, of whose plans a subclass says something else; pixels are the view's."""

    view: Any

    @property
    def draws(self) -> bool:
        return bool(getattr(self.view, "draws", False))

    def __getattr__(self, name: str) -> Any:
        """What it does not say itself, the view does: its patch, its side, its marks."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(object.__getattribute__(self, "view"), name)

    def planned(self, facts: Media, rng: np.random.Generator | None) -> MediaPlan:
        """The view's plan. Raises DataError as the view does."""
        plan: MediaPlan = self.view.plan(facts, rng=rng) if self.draws else self.view.plan(facts)
        return plan

    def realize(self, source: Any, plan: MediaPlan, **into: Any) -> torch.Tensor:
        """As the view does."""
        made: torch.Tensor = self.view.realize(source, plan, **into)
        return made

    def smaller(self) -> Self | None:
        """The view made smaller, where fewer patches are fewer tokens: a video of fewer frames is, and what is merged
        down; a picture of so many queries stays as it is. None where the view has no smaller one."""
        lowered = self.view.smaller() if hasattr(self.view, "smaller") else None
        return None if lowered is None else replace(self, view=lowered)
