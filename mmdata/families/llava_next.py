"""LLaVA-NeXT: AnyRes tiles; `pixel_values` [N, tiles, 3, S, S], filled up with zero tiles, and `image_sizes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdata.errors import SpecError
from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Checkpoint, Settings, no_class_token, pixels, said, side
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views.anyres import AnyRes


@register("family", "llava_next")
def llava_next(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `LlavaNextForConditionalGeneration` with a CLIP tower whose class token is left out.

    Image parameters are those of `AnyRes`.
    """
    return Family(
        name="llava_next",
        tokenizer=tokenizer,
        media={
            "image": MediaRule(
                view=settings.view("image", AnyRes, read),
                placeholder="<image>",
                key="pixel_values",
                join="pad",
                companions=image_sizes,
            )
        },
    )


def read(checkpoint: Checkpoint, size: int = 224, **unsaid: Any) -> Mapping[str, Any]:
    """Parameters of `AnyRes`; `size` and `unsaid` are those of the processor's class."""
    no_class_token(checkpoint)
    found = said(checkpoint.media["image"], size=size, **unsaid)
    whole, tile = side(found.get("size")), side(found.get("crop_size"))
    if whole and tile and whole != tile:
        raise SpecError(f"size {whole} with crop_size {tile}: pictures and tiles are of one size in the view")
    return {
        **pixels(found),
        "size": tile or whole,
        "patch": checkpoint.processor.get("patch_size") or checkpoint.vision.get("patch_size"),
        "pinpoints": found.get("image_grid_pinpoints"),
    }


def image_sizes(plan: MediaPlan) -> dict[str, np.ndarray]:
    """int64 [1, 2]: height and width of the picture itself, by which the model cuts the padding out."""
    return {"image_sizes": np.array([plan.size], np.int64)}
