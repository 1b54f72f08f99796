"""Pairs of a picture and a text, as the stream's batches hold them: patches in a row, token ids of each text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mmdata import rng
from mmdata.families import Family
from mmdata.families._family import MediaRule
from mmdata.types import MediaPlan
from mmdata.views.naflex import NaFlex
from mmdata.views.navit import kept as kept_count
from mmdata.views.resampled import Resampled
from mmtrain.models.pairs import pairs_of as segments_of
from mmtrain.rows import borders
from mmtrain.tokenizer import IMAGE

BAG = 256
"""Places of the bag that a text's words are put into by their ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """N pairs: patches [P, 3 * patch^2] of all pictures after each other in raster order, each of so many (rows,
    columns); token ids int64 [W] of each text, on the host."""

    patches: torch.Tensor
    grids: Sequence[tuple[int, int]]
    texts: Sequence[torch.Tensor]
    keys: Sequence[str]
    """Of the samples."""
    kept: Sequence[torch.Tensor] | None = None
    """Patches of each picture that are looked at, int64 ascending; None: all."""

    def __len__(self) -> int:
        return len(self.grids)

    @property
    def digests(self) -> torch.Tensor:
        """A number for each text, the same for the same tokens: int64 [N]."""
        found = [
            int.from_bytes(hashlib.blake2b(text.numpy().tobytes(), digest_size=8).digest(), "little", signed=True)
            for text in self.texts
        ]
        return torch.tensor(found, dtype=torch.int64)

    @property
    def bags(self) -> torch.Tensor:
        """Which words each text has, by id modulo BAG, as a vector of length 1: float32 [N, BAG]. Their products are
        the cosine of two sets of words."""
        found = torch.zeros(len(self), BAG)
        for row, text in zip(found, self.texts, strict=True):
            row[text % BAG] = 1
        return torch.nn.functional.normalize(found, dim=-1)


def family(patch: int, max_patches: int, tokenizer: Any) -> Family:
    """What makes batches of pairs: NaFlex patches without padding, and one marker for the picture among the tokens."""
    view = Resampled(view=NaFlex(patch=patch, budget=max_patches, pad=False), tokens=1)
    rule = MediaRule(view=view, placeholder=IMAGE, key="pixel_values", join="concat", companions=_grid)
    return Family(name="contrastive", tokenizer=tokenizer, media={"image": rule})


def _grid(plan: MediaPlan) -> dict[str, np.ndarray]:
    assert plan.grid is not None, plan
    return {"spatial_shapes": np.array([plan.grid[1:]], np.int64)}


def read(batch: Mapping[str, Any], image_id: int) -> Pairs:
    """The pairs of a packed batch: of each sample that could be read, its only picture and its trained tokens. Raises
    RunError for a sample without exactly one picture."""
    ids, labels = batch["input_ids"].flatten().cpu(), batch["labels"].flatten().cpu()
    cu = borders(batch).cpu()
    found = segments_of(cu, torch.nonzero(ids == image_id)[:, 0], (labels >= 0).float(), "contrastive")
    shapes = [(int(rows), int(columns)) for rows, columns in batch.get("spatial_shapes", torch.zeros(0, 2)).tolist()]
    rows = batch["pixel_values"].split([a * b for a, b in shapes]) if shapes else ()
    patches = torch.cat([rows[pair.picture] for pair in found]) if found else torch.zeros(0, 0)
    keys = list(batch["keys"])
    return Pairs(
        patches=patches,
        grids=[shapes[pair.picture] for pair in found],
        texts=[ids[pair.places] for pair in found],
        keys=[keys[pair.segment] for pair in found],
    )


def masked(pairs: Pairs, share: float, *, seed: int, step: int) -> Pairs:
    """Pairs of whose pictures only a random part of the patches is looked at, `share` of them being left out (FLIP: Li
    et al. 2022, arXiv 2212.00794). The draw belongs to sample and step, whichever rank has it."""
    if not share:
        return pairs
    kept = []
    for key, (rows, columns) in zip(pairs.keys, pairs.grids, strict=True):
        total = rows * columns
        draw = rng.generator("flip", seed, step, key)
        kept.append(torch.from_numpy(rng.random_subset(total, kept_count(total, share), draw)))
    return replace(pairs, kept=kept)
