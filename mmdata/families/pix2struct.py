"""Pix2Struct: an encoder-decoder over patches that know their row and column; `flattened_patches` [N, P, 2 + D]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdata.errors import SpecError
from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Checkpoint, Settings
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views.pix2struct import Pix2Struct


@register("family", "pix2struct")
def pix2struct(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `Pix2StructForConditionalGeneration`: nothing stands in the text, one sample per row.

    Image parameters are those of `Pix2Struct`.
    """
    rule = MediaRule(
        view=settings.view("image", Pix2Struct, _read), placeholder=None, key="flattened_patches", companions=_mask
    )
    return Family(name="pix2struct", tokenizer=tokenizer, media={"image": rule}, packs=False)


def _read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    found = checkpoint.media["image"]
    if found.get("do_normalize") is False:
        raise SpecError("do_normalize: false; the view standardises every picture")
    if found.get("is_vqa"):
        raise SpecError(
            "is_vqa: true; its processor paints the question above the picture, which no view does: "
            "paint it when you build, and set is_vqa to false"
        )
    patch = found.get("patch_size")
    return {"patch": patch.get("height") if isinstance(patch, Mapping) else patch, "budget": found.get("max_patches")}


def _mask(plan: MediaPlan) -> dict[str, np.ndarray]:
    """float32 [1, P], the encoder's mask: 1 for patches, 0 for the rows that fill up."""
    assert plan.grid is not None, plan
    _, rows, columns = plan.grid
    return {"attention_mask": (np.arange(plan.shape[0]) < rows * columns).astype(np.float32)[None]}
