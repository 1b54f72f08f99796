"""SigLIP 2 NaFlex: patches beside the text, nothing in it; `pixel_values` [N, P, D], `pixel_attention_mask`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Checkpoint, Settings, pixels
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views.naflex import NaFlex


@register("family", "siglip2")
def siglip2(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `Siglip2Model`, which compares pictures with texts: no placeholder, one sample per row.

    Image parameters are those of `NaFlex`.
    """
    return Family(
        name="siglip2",
        tokenizer=tokenizer,
        media={
            "image": MediaRule(
                view=settings.view("image", NaFlex, _read), placeholder=None, key="pixel_values", companions=_companions
            )
        },
        packs=False,
    )


def _read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    found = checkpoint.media["image"]
    return {**pixels(found), "patch": found.get("patch_size"), "budget": found.get("max_num_patches")}


def _companions(plan: MediaPlan) -> dict[str, np.ndarray]:
    assert plan.grid is not None, plan
    _, rows, columns = plan.grid
    mask = np.arange(plan.shape[0]) < rows * columns
    return {
        "pixel_attention_mask": mask.astype(np.int32)[None],
        "spatial_shapes": np.array([[rows, columns]], np.int64),
    }
