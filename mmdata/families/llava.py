"""LLaVA-1.5: the fixed view, one `<image>` per patch, `pixel_values` [N, 3, S, S]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdata.errors import SpecError
from mmdata.families._family import Family, MediaRule
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.views.fixed import Fixed


@register("family", "llava")
def llava(tokenizer: Tokenizer, image: Mapping[str, Any] | None = None) -> Family:
    """The family of `LlavaForConditionalGeneration` with a CLIP tower whose class token is left out.

    `image` holds parameters of `Fixed` (size, crop, patch, mean, std); the default is CLIP-L/14 at 336 pixels.
    """
    try:
        view = Fixed(**(image or {}))
    except TypeError as error:
        raise SpecError(f"family llava: image: {error}; parameters are size, crop, patch, mean, std") from error
    return Family(
        name="llava",
        tokenizer=tokenizer,
        media={"image": MediaRule(view=view, placeholder="<image>", key="pixel_values")},
    )
