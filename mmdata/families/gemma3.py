"""Gemma 3: squashed pictures of 256 tokens, which see each other within one image; `token_type_ids` 1 for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdata.families._family import Family, Layout, MediaRule
from mmdata.families._settings import Checkpoint, Settings, pixels, side
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views.tiles import PanAndScan

PLACEHOLDER = "<image_soft_token>"
START, END = "<start_of_image>", "<end_of_image>"


@register("family", "gemma3")
def gemma3(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `Gemma3ForConditionalGeneration`: `pixel_values` [pictures, 3, 896, 896].

    Image parameters are those of `PanAndScan`; `crops` (pan and scan) is off, as in Hugging Face's processor.
    """
    view = settings.view("image", PanAndScan, _read, crops=False)
    return Family(
        name="gemma3",
        tokenizer=tokenizer,
        media={
            "image": MediaRule(
                view=view,
                placeholder=PLACEHOLDER,
                marker=START,
                key="pixel_values",
                join="concat",
                layout=_told if view.crops else _picture,
                before="" if view.crops else "\n\n",
                after="\n\n",
            )
        },
        type_ids="token_type_ids",
        token_types={"image": 1},
    )


def _read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    found = checkpoint.media["image"]
    tokens = checkpoint.model.get("mm_tokens_per_image") or checkpoint.processor.get("image_seq_length")
    size, patch = side(found.get("size"), "height"), checkpoint.vision.get("patch_size")
    return {
        **pixels(found),
        "size": size,
        "patch": patch,
        "pool": round(size / patch / tokens**0.5) if tokens and size and patch else None,
        "crops": found.get("do_pan_and_scan"),
        "min_crop": found.get("pan_and_scan_min_crop_size"),
        "max_crops": found.get("pan_and_scan_max_num_crops"),
        "min_ratio": found.get("pan_and_scan_min_ratio_to_activate"),
    }


def _picture(plan: MediaPlan) -> Layout:
    """The picture between its marks, line breaks around."""
    return START, plan.tokens, END


def _told(plan: MediaPlan) -> Layout:
    """With crops: the picture, told in words and followed by them, a space between."""
    each = plan.tokens // plan.shape[0]
    if plan.shape[0] == 1:
        return f"\n\n{START}", each, END
    pieces: list[str | int] = [f"Here is the original image \n\n{START}", each]
    before = f"{END}\n\n and here are some crops to help you see better "
    for _ in range(plan.shape[0] - 1):
        pieces += [f"{before}\n\n{START}", each]
        before = f"{END}\n\n "
    return (*pieces, END)
