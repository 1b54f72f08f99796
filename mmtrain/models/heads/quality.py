"""A head that says how well something is done in a video: action quality assessment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import nn

from mmdata.errors import DataError
from mmdata.spec import Model
from mmtrain.auxiliary import Term, Unit, record
from mmtrain.models.heads.films import Towers, films, told, trained
from mmtrain.models.video.heads import Quality


class QualitySpec(Model):
    """A score of each video, as a distribution over `grades` grades from `low` to `high`, of the vectors of its frames,
    each the mean of its patches after `model.video` (`mmtrain.models.video.heads.Quality`). What it should be is the
    field `quality` of the sample, a number; carry it (`data.carry: [quality]`)."""

    low: float = 0.0
    high: float = 1.0
    grades: int = Field(21, ge=2)
    hidden: int = Field(64, ge=4)
    spread: float = Field(0.05, gt=0)
    """Of the range: how wide the Gaussian around a true score is, that the grades learn."""

    @model_validator(mode="after")
    def _ranges(self) -> QualitySpec:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self


class QualityHead(nn.Module):
    """`QualitySpec`: vectors of frames of width `width` to scores."""

    watches = True
    taught_by = ("quality",)

    def __init__(self, spec: QualitySpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        grades: dict[str, Any] = {"low": spec.low, "high": spec.high, "grades": spec.grades}
        self.grader = Quality(width, hidden=spec.hidden, **grades)
        self.auxiliary = {"quality": Term(weight=1.0, per="quality"), "quality_off": Term(weight=0.0, per="quality")}

    def score(self, rows: torch.Tensor) -> float:
        """Of one video: vectors of its frames [frames, width]."""
        with torch.no_grad():
            return float(self.grader(rows, [len(rows)])[1])

    def units(self, model: Any, batch: Mapping[str, Any], weights: torch.Tensor) -> dict[Unit, torch.Tensor]:
        """Each video counts 1 where its sample says how good it is, and can be read."""
        taught = trained(batch, weights)
        known = [taught[film.segment] and told(batch, film).get("quality") is not None for film in films(model, batch)]
        return {"quality": torch.tensor(known, dtype=weights.dtype, device=weights.device)}

    def learn(self, model: Any, batch: Mapping[str, Any], towers: Towers) -> None:
        """Record the loss of each of a batch's videos, and how far off its score is."""
        nothing = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0
        losses, off = list[torch.Tensor](), list[torch.Tensor]()
        for film in films(model, batch):
            if (wanted := quality_of(told(batch, film))) is None:
                losses.append(nothing)
                off.append(nothing)
                continue
            logits, score = (x.float() for x in self.grader(film.rows(towers), [film.count]))
            truth = torch.tensor([wanted], device=logits.device)
            losses.append(nothing + self.grader.loss(logits, truth, spread=self.spec.spread))
            off.append(nothing + (score - truth).abs()[0].detach())
        for name, values in (("quality", losses), ("quality_off", off)):
            record(name, torch.stack(values) if values else nothing[None][:0])


def quality_of(fields: Mapping[str, Any]) -> float | None:
    """What a sample says how good it is. Raises DataError `bad_quality` for no number."""
    given = fields.get("quality")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise DataError("bad_quality", f"a quality is a number, not {str(given)[:60]}")
    return float(given)
