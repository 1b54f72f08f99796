"""How vectors are spread: likenesses of pairs and of others, and whether everything has become alike."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from mmdata.errors import RunError
from mmdata.spec import Model

QUANTILES = (0.1, 0.5, 0.9)


class SpreadSpec(Model):
    """What is measured of the vectors of a step, and when a run has collapsed."""

    every: int = Field(10, ge=1)
    """Steps between measurements."""
    samples: int = Field(512, ge=2)
    """Pairs of the global batch that are measured."""
    least_rank: float = Field(1.5, ge=1)
    """Below so many directions (`spread/rank`) vectors have collapsed,"""
    most_alike: float = Field(0.98, gt=0, le=1)
    """and so they have where the cosine of two pictures, or of two texts, is more than this in the mean."""
    patience: int = Field(3, ge=1)
    """Measurements in a row that say so before something is done."""
    on_collapse: str = Field("warn", pattern="^(warn|stop)$")
    """`warn` says so on the console, each time; `stop` ends the run."""


def measured(pictures: torch.Tensor, texts: torch.Tensor, together: torch.Tensor) -> dict[str, float]:
    """What the log tells of vectors [N, D] of length 1, of which `together` bool [N, N] belong together.

    `pair` and `other` are cosines of pictures with their texts and with others (mean, deviation, quantiles p10, p50,
    p90), `margin` the mean distance of a pair from its hardest other, `top1` the share of pictures nearest to a text of
    their own. `alike_pictures` and `alike_texts` are mean cosines inside a kind; `uniformity` is the logarithm of the
    mean of exp(-2 |x - y|^2) (Wang & Isola 2020, arXiv 2005.10242: 0 where all are one, towards -4 on the sphere);
    `rank` the lesser of both kinds' numbers of directions, exp of the entropy of squared singular values (Roy &
    Vetterli 2007); `gap` the distance between the two kinds' means (Liang et al. 2022, arXiv 2203.02053).
    """
    pictures, texts = pictures.detach().float(), texts.detach().float()
    seen = pictures @ texts.T
    own, others = seen[together], seen[~together]
    values = {f"pair_{name}": value for name, value in _distribution(own).items()}
    values |= {f"other_{name}": value for name, value in _distribution(others).items()}
    hardest = torch.where(together, -2.0, seen).amax(-1)
    best = torch.where(together, seen, -2.0).amax(-1)
    values["margin"] = float((seen.diagonal() - hardest).mean()) if len(others) else 0.0
    values["top1"] = float((best >= hardest).float().mean())
    apart = ~torch.eye(len(pictures), dtype=torch.bool, device=pictures.device)
    for name, rows in (("pictures", pictures), ("texts", texts)):
        inside = (rows @ rows.T)[apart]
        values[f"alike_{name}"] = float(inside.mean())
        values[f"uniformity_{name}"] = float(torch.exp(-2 * (2 - 2 * inside)).mean().log())
    values["rank"] = min(directions(pictures), directions(texts))
    values["gap"] = float((pictures.mean(0) - texts.mean(0)).norm())
    return values


def directions(rows: torch.Tensor) -> float:
    """In how many directions vectors [N, D] point: 1 where all are alike, D where they are spread evenly; not a number
    where vectors are none, which is the gate's to judge.

    >>> round(directions(torch.eye(4)), 3), round(directions(torch.ones(4, 4)), 3)
    (4.0, 1.0)
    """
    if not rows.isfinite().all():
        return math.nan
    share = torch.linalg.svdvals(rows.double().cpu()).square()
    share = share / share.sum().clamp(min=1e-30)
    return float(torch.exp(-(share * share.clamp(min=1e-30).log()).sum()))


class Spread:
    """Judges measurements; `state_dict` is JSON."""

    def __init__(self, spec: SpreadSpec) -> None:
        self.spec = spec
        self.collapsed = 0
        """Measurements in a row that said so."""

    def judge(self, values: dict[str, float]) -> str | None:
        """What is to be said of a measurement; raises RunError, on every rank, where the run must not go on."""
        alike = max(values["alike_pictures"], values["alike_texts"])
        fault = None
        if values["rank"] < self.spec.least_rank:
            fault = f"vectors point in {values['rank']:.2f} directions (spread.least_rank: {self.spec.least_rank:g})"
        elif alike > self.spec.most_alike:
            fault = f"vectors of a kind have a mean cosine of {alike:.4f} (spread.most_alike: {self.spec.most_alike:g})"
        self.collapsed = 0 if fault is None else self.collapsed + 1
        if fault is None or self.collapsed < self.spec.patience:
            return None
        told = f"collapse: {fault}, {self.collapsed} measurements in a row; lower optim.lr, or raise global_batch"
        if self.spec.on_collapse == "stop":
            raise RunError(told)
        return told

    def state_dict(self) -> dict[str, int]:
        return {"collapsed": self.collapsed}

    def load_state_dict(self, saved: dict[str, int]) -> None:
        self.collapsed = int(saved["collapsed"])


def _distribution(values: torch.Tensor) -> dict[str, float]:
    if not len(values):
        return {"mean": math.nan}
    found = {"mean": float(values.mean()), "std": float(values.std(correction=0))}
    points = torch.quantile(values[:: max(1, len(values) // 100_000)], values.new_tensor(QUANTILES))
    return found | {f"p{round(100 * q)}": float(point) for q, point in zip(QUANTILES, points, strict=True)}
