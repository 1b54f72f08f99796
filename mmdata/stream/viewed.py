"""Samples without a family whose pictures a view makes arrays of: for models that take images, and for looking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmdata import memory
from mmdata.decode.image import MAX_PIXELS
from mmdata.decode.planned import Fidelity
from mmdata.families._family import View
from mmdata.stream.realize import realize
from mmdata.types import Sample


@dataclass(frozen=True, slots=True)
class Pictures:
    """The texts of a sample and what a view has made of its pictures, in order."""

    key: str
    texts: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True)
class Viewed:
    """A StreamLoader's `transform` for samples of `StreamingDataset(..., yields="raw")`: every picture as `view` plans
    it from the facts, decoded no further than that asks for (`decode`, as in a StreamSpec). Other media are left out.

    Raises DataError as decoders and views do.
    """

    view: View
    decode: Fidelity = "exact"
    max_pixels: int = MAX_PIXELS

    def __call__(self, sample: Sample) -> Pictures:
        arrays = tuple(
            realize(medium, self.view.plan(medium), self.view, max_pixels=self.max_pixels, fidelity=self.decode)
            for medium in sample.media
            if medium.kind == "image"
        )
        return Pictures(sample.key, tuple(text.text for text in sample.texts), arrays)


def stack(several: Sequence[Pictures]) -> dict[str, Any]:
    """A batch of samples whose pictures have one shape: `keys`, `texts` (a tuple of each sample's), `pixel_values`
    [N, ...] of all their pictures and `sample_of` int64 [N], the number of the sample in the batch that each belongs
    to. Raises ValueError for arrays of several shapes."""
    counts = [len(one.arrays) for one in several]
    arrays = [array for one in several for array in one.arrays]
    out = memory.empty((len(arrays), *arrays[0].shape), arrays[0].dtype) if arrays else None
    return {
        "keys": [one.key for one in several],
        "texts": [one.texts for one in several],
        "pixel_values": torch.from_numpy(np.stack(arrays, out=out)),
        "sample_of": torch.from_numpy(np.repeat(np.arange(len(several)), counts)),
    }
