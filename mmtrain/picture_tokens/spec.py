"""What the training of a tokeniser may be told, and pictures as it takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from mmdata.decode import image
from mmdata.errors import DataError
from mmdata.shards.dataset import Dataset
from mmdata.spec import InputPath, Model, OutputPath, runtime
from mmdata.views.fixed import Fixed
from mmtrain.models.tokens import TokeniserSpec
from mmtrain.models.tokens.terms import AdversarialSpec, PerceptualSpec
from mmtrain.precision import DeviceName

MAX_PIXELS = 1 << 26


class TokenizeSpec(Model):
    """Training of one tokeniser on the pictures of one dataset."""

    dataset: InputPath
    """A dataset of mmdata; the first image of each sample is taken."""
    heldout: InputPath | None = runtime(None)
    """Pictures that the end is measured on; by default those of `dataset`."""
    tokeniser: TokeniserSpec
    output: OutputPath
    """Folder of the run, and of the tokeniser."""
    steps: int = Field(1000, ge=1)
    batch: int = Field(32, ge=1)
    """Pictures in a step, drawn by seed and step."""
    lr: float = Field(2e-3, gt=0)
    """Of Adam; it falls to a tenth along a cosine."""
    seed: int = 0
    l1: float = Field(0.0, ge=0, le=1)
    """How much of the loss of pixels is the absolute difference; the rest is the squared one."""
    perceptual: PerceptualSpec | None = None
    adversarial: AdversarialSpec | None = None
    every: int = runtime(200, ge=1)
    """Steps between checkpoints."""
    device: DeviceName = runtime("auto")


def pictures(dataset: Dataset, positions: Sequence[int], size: int) -> torch.Tensor:
    """The first image of samples, squashed to size x size: float32 [N, 3, size, size] in [-1, 1]. Raises DataError for
    a sample without one."""
    half = (0.5, 0.5, 0.5)
    view = Fixed(size=size, patch=1, mode="squash", mean=half, std=half)
    found = []
    for position in positions:
        sample = dataset.sample(int(position))
        media = next((each for each in sample.media if each.kind == "image"), None)
        if media is None or media.data is None:
            raise DataError("no_image", f"sample {sample.key} has no image to make tokens of")
        pixels = image.decode(media.data, max_pixels=MAX_PIXELS)
        found.append(view.realize(pixels, view.plan(media)))
    return torch.stack(found)
