"""What may be asked of a tokeniser's pictures besides that their pixels are near: features, and a judge."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel

from mmdata.spec import Model
from mmtrain.models import hf
from mmtrain.models.source import folder_of
from mmtrain.models.spec import SourceSpec


class PerceptualSpec(SourceSpec):
    """The distance of what a frozen vision tower of a folder says of both pictures: hidden states of all layers, each
    normalised per patch, mean of squared differences (as LPIPS has it: Zhang et al. 2018, arXiv 1801.03924, eq. 1,
    without its learned weights)."""

    weight: float = Field(0.1, ge=0)


class AdversarialSpec(Model):
    """A judge of patches that learns to tell real pictures from the tokeniser's, and the tokeniser to deceive it (hinge
    losses; VQGAN: Esser et al. 2021, arXiv 2012.09841, §3.1, with a fixed weight in place of its adaptive one)."""

    weight: float = Field(0.05, ge=0)
    start: int = Field(500, ge=0)
    """Steps before it begins."""
    lr: float = Field(1e-4, gt=0)


class Perceptual(nn.Module):
    """`PerceptualSpec`: pictures [N, 3, S, S] in [-1, 1], twice -> a scalar."""

    def __init__(self, spec: PerceptualSpec) -> None:
        super().__init__()
        folder = folder_of(spec, "perceptual")
        config = hf.read_config(folder, "perceptual")
        config = getattr(config, "vision_config", config)
        whole: Any = (
            AutoModel.from_config(config)
            if spec.random
            else AutoModel.from_pretrained(str(folder), trust_remote_code=False)
        )
        self.tower = getattr(whole, "vision_model", whole).requires_grad_(False).eval()
        self.size = int(config.image_size)

    def train(self, mode: bool = True) -> Perceptual:
        """Its tower stays as it is."""
        return self

    def forward(self, made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        layers = [self._seen(x) for x in (made, wanted)]
        total = made.new_zeros(())
        for mine, theirs in zip(*layers, strict=True):
            total = total + (F.normalize(mine, dim=-1) - F.normalize(theirs, dim=-1)).square().sum(-1).mean()
        return total / len(layers[0])

    def _seen(self, pixels: torch.Tensor) -> Any:
        pixels = F.interpolate(pixels, size=(self.size, self.size), mode="bilinear", antialias=True)
        return self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[1:]


def judged(real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """The judge's loss of its logits of real pictures and of made ones."""
    return F.relu(1 - real).mean() / 2 + F.relu(1 + made).mean() / 2


def deceiving(made: torch.Tensor) -> torch.Tensor:
    """The tokeniser's loss of the judge's logits of what it made."""
    return -made.mean()
