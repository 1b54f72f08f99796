"""LLaVA-1.5: the fixed view, one `<image>` per patch, `pixel_values` [N, 3, S, S]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Checkpoint, Settings, no_class_token, pads_with_mean, pixels, square
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.views.fixed import Fixed


@register("family", "llava")
def llava(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `LlavaForConditionalGeneration` with a CLIP tower whose class token is left out.

    Image parameters are those of `Fixed`; the default is CLIP-L/14 at 336 pixels.
    """
    view = settings.view("image", Fixed, _read)
    return Family(
        name="llava",
        tokenizer=tokenizer,
        media={"image": MediaRule(view=view, placeholder="<image>", key="pixel_values")},
    )


def _read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    no_class_token(checkpoint)
    found = checkpoint.media["image"]
    if found.get("do_pad"):
        pads_with_mean(found)
    return {
        **pixels(found),
        **square(found),
        **({"mode": "pad_square"} if found.get("do_pad") else {}),
        "patch": checkpoint.processor.get("patch_size") or checkpoint.vision.get("patch_size"),
    }
