"""LFM2-VL: NaFlex pictures and tiles; `pixel_values` [pictures, P, D], `pixel_attention_mask`, `spatial_shapes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdata.families._family import Family, Layout, MediaRule
from mmdata.families._settings import Checkpoint, Settings, pixels
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views.lfm2 import Lfm2Tiles

START, END, THUMBNAIL = "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"


@register("family", "lfm2_vl")
def lfm2_vl(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `Lfm2VlForConditionalGeneration`. Image parameters are those of `Lfm2Tiles`.

    Its hybrid language model mixes neighbours by convolution and cannot share a row between samples without kernels
    that know `seq_idx`, so samples are not packed.
    """
    view = settings.view("image", Lfm2Tiles, _read)

    def tiles(plan: MediaPlan) -> Layout:
        """Tiles with their row and column, then the thumbnail; or the picture in one piece."""
        assert plan.grid is not None, plan
        _, rows, columns = plan.grid
        if rows * columns == 1:
            return START, plan.tokens, END
        pieces: list[str | int] = []
        before = START
        for row in range(1, rows + 1):
            for column in range(1, columns + 1):
                pieces += [f"{before}<|img_row_{row}_col_{column}|>", view.tokens_per_tile]
                before = ""
        rest = plan.tokens - rows * columns * view.tokens_per_tile
        return (*pieces, THUMBNAIL, rest, END) if rest else (*pieces, END)

    def companions(plan: MediaPlan) -> dict[str, np.ndarray]:
        shapes = view.patches(plan)
        mask = np.arange(plan.shape[1])[None] < np.array([rows * columns for rows, columns in shapes])[:, None]
        return {"pixel_attention_mask": mask.astype(np.int32), "spatial_shapes": np.array(shapes, np.int64)}

    rule = MediaRule(
        view=view, placeholder="<image>", key="pixel_values", join="concat", layout=tiles, companions=companions
    )
    return Family(name="lfm2_vl", tokenizer=tokenizer, media={"image": rule}, packs=False)


def _read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    found = checkpoint.media["image"]
    return {
        **pixels(found),
        "size": found.get("tile_size"),
        "patch": found.get("encoder_patch_size"),
        "pool": found.get("downsample_factor"),
        "min_tiles": found.get("min_tiles"),
        "max_tiles": found.get("max_tiles"),
        "thumbnail": found.get("use_thumbnail"),
        "splitting": found.get("do_image_splitting"),
        "min_tokens": found.get("min_image_tokens"),
        "max_tokens": found.get("max_image_tokens"),
        "tolerance": found.get("max_pixels_tolerance"),
    }
