"""Pixtral: pictures of their own shape, a break after each row of tokens; `pixel_values` [N, 3, H, W] padded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdata.families._family import Family, Layout, MediaRule
from mmdata.families._settings import Checkpoint, Settings, pixels, side
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views.pixtral import LongestEdge

BREAK, END = "[IMG_BREAK]", "[IMG_END]"


@register("family", "pixtral")
def pixtral(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `LlavaForConditionalGeneration` with a Pixtral tower, and of Mistral 3 (merge 2, patch 14).

    Image parameters are those of `LongestEdge`.
    """
    view = settings.view("image", LongestEdge, _read)

    def rows(plan: MediaPlan) -> Layout:
        """A break after each row of tokens, the end mark after the last."""
        assert plan.grid is not None, plan
        _, tall, wide = plan.grid
        pieces: list[str | int] = []
        for _ in range(tall // view.merge):
            pieces += [wide // view.merge, BREAK]
        return (*pieces[:-1], END)

    return Family(
        name="pixtral",
        tokenizer=tokenizer,
        media={
            "image": MediaRule(
                view=view, placeholder="[IMG]", key="pixel_values", join="pad", layout=rows, companions=_sizes
            )
        },
    )


def _read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    found = checkpoint.media["image"]
    patch = (
        checkpoint.processor.get("patch_size") or checkpoint.vision.get("patch_size") or side(found.get("patch_size"))
    )
    return {
        **pixels(found),
        "size": side(found.get("size"), "longest_edge"),
        "patch": patch,
        "merge": checkpoint.processor.get("spatial_merge_size") or checkpoint.model.get("spatial_merge_size"),
    }


def _sizes(plan: MediaPlan) -> dict[str, np.ndarray]:
    return {"image_sizes": np.array([plan.shape[-2:]], np.int64)}
