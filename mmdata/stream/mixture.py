"""What a stream may be told of several datasets: what each weighs, how often it is gone through, what changes when."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field

from mmdata.spec import InputPath, Model

WeighBy = Literal["tokens", "samples", "cost"]


class DatasetSpec(Model):
    """One dataset of several.

    Without weights datasets are pooled: an epoch has every sample of each, `repeat` times. With weights samples are
    drawn so that each dataset has its share at every moment, going through it as often as that takes, or `epochs`
    times at most.
    """

    path: InputPath
    """Folder of a finished dataset."""
    name: str = ""
    """What it is called in schedules and reports; by default the name of its folder."""
    weight: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Its share, beside the weights of the others; all datasets have one, or none."""
    repeat: int = Field(1, ge=1)
    """Without weights: how often an epoch goes through it."""
    epochs: int | None = Field(None, ge=1)
    """With weights: passes after which it is spent and hands its share to the others; null never ends."""
    limit: int | None = Field(None, ge=1)
    """Use its first so many samples."""
    template: str | None = None
    """How its samples become tokens, where not as the stream's `template`."""

    @property
    def title(self) -> str:
        """Its name, or that of its folder."""
        return self.name or PurePosixPath(self.path.rstrip("/")).name


class Stage(Model):
    """What holds from a moment on. It takes effect at the first block that begins there or later; what it does not
    name stays as it is."""

    at: int = Field(ge=0)
    """Samples of the stream that come before, those left out among them."""
    weights: dict[str, float] = Field(min_length=1)
    """Of datasets, by name."""
    change: Literal["step", "linear", "cosine"] = "step"
    """`step` changes all at once; the others go there gradually, from where the stage before began."""


def problem(datasets: Sequence[DatasetSpec], schedule: Sequence[Stage]) -> str | None:
    """What is wrong with a mixture and what to do, or None."""
    if not datasets:
        return "schedule: it changes weights of `datasets`; name several and give each a `weight`" if schedule else None
    names = Counter(each.title for each in datasets)
    weighted = [each.weight is not None for each in datasets]
    if twice := [name for name, count in names.items() if count > 1]:
        return f"datasets: two are called {twice[0]}; give one a `name`"
    if any(weighted) and not all(weighted):
        return f"datasets: {datasets[weighted.index(False)].title} has no `weight`; give every dataset one, or none"
    for each in datasets:
        if all(weighted) and each.repeat > 1:
            return f"datasets: {each.title} has a weight, which decides how often it comes; leave out `repeat`"
        if not any(weighted) and each.epochs is not None:
            return f"datasets: {each.title} has `epochs` but no weight; use `repeat`, and the stream's `epochs`"
    if all(weighted) and not any(each.weight for each in datasets) and not any(stage.at == 0 for stage in schedule):
        return "datasets: all weights are 0; give one more"
    if schedule and not all(weighted):
        return "schedule: datasets without weights are pooled; give each a `weight`"
    for before, stage in itertools.pairwise(schedule):
        if stage.at <= before.at:
            return f"schedule: the stage at {stage.at} follows one at {before.at}; put them in ascending order"
    for stage in schedule:
        for name, weight in stage.weights.items():
            if name not in names:
                return f"schedule: no dataset is called {name}; there are {', '.join(names)}"
            if not 0 <= weight < float("inf"):
                return f"schedule: {name} weighs {weight} at {stage.at}; give a number that is not negative"
    return None
